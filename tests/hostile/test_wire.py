"""What is no proper HTTP, against the two real servers: refused or closed, never a crash, never a trace."""

import re
import socket
import time

import pytest

from tests.hostile import servers, wire
from tests.hostile.conftest import LEAKS, SECRET, check_it_goes_on, is_told_well

CASES = wire.cases()


@pytest.mark.parametrize("target", ["function", "backend"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_no_proper_http_is_refused_and_breaks_nothing(running, target, case):
    server = running[target][0]
    logged = len(server.log.read_bytes())
    started = time.monotonic()
    status, told = wire.sent(server.port, case)
    assert time.monotonic() - started < 20  # it is answered or closed, and does not wait for what never comes
    assert status in getattr(case, target), told[:500]
    shown = told.decode("latin-1")
    assert not LEAKS.search(shown), shown
    assert status != 500
    head, _, content = shown.partition("\r\n\r\n")
    if status >= 400 and "Content-Type: application/json" in head:  # ours; the servers' own are text
        length = int(re.search(r"Content-Length: (\d+)", head)[1])
        assert is_told_well(content[:length])  # where the rest is taken for a request of its own, it is answered too
    check_it_goes_on(running, target)
    new = server.log.read_bytes()[logged:].decode("utf-8", "replace")
    assert not SECRET.search(new)
    assert "Traceback" not in new
    assert len(new) < 20_000
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", new), "control characters in the log"


@pytest.mark.parametrize("target", ["function", "backend"])
def test_clients_that_send_slowly_hold_nobody_up(running, target):
    """A few; how many a server bears is a limit of its own."""
    server, good, right, _ = running[target]
    slow = []
    try:
        for _ in range(8):
            connection = socket.create_connection(("127.0.0.1", server.port), 5)
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nX-A: ")
            slow.append(connection)
        for _ in range(4):
            for connection in slow:
                connection.sendall(b"a")
            started = time.monotonic()
            status, _, text = server.post(good)
            assert (status, servers.shapes(text)) == (200, right)
            assert time.monotonic() - started < 20  # less than the servers wait for a slow request
    finally:
        for connection in slow:
            connection.close()
    check_it_goes_on(running, target)
