"""gunicorn's threaded worker, with a limit on how long a caller may take to send a request."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

SENDING_SECONDS = 30.0
"""gunicorn itself waits for ever: callers that send half a request would hold all of its threads."""


class Worker(ThreadWorker):  # type: ignore[misc]
    """As gunicorn's, but a request that is not there in time is read no further; answers still go out."""

    def handle(self, conn: Any) -> Any:
        """Reads a request, answers it."""

        def give_up() -> None:
            with contextlib.suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RD)

        timer = threading.Timer(SENDING_SECONDS, give_up)
        timer.daemon = True
        timer.start()
        try:
            return super().handle(conn)
        finally:
            timer.cancel()
