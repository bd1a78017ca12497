"""`python -m ls_backend`: serves Label Studio's requests with gunicorn."""

from __future__ import annotations

import argparse
import os
import sys

_OPTIONS = (
    ("--host", "HOST", "127.0.0.1", "address to listen on; 0.0.0.0 for all"),
    ("--port", "PORT", "9090", "port"),
    ("--workers", "WORKERS", "1", "processes, each with a model and caches of its own"),
    ("--threads", "THREADS", "8", "requests that a process takes at once; the network takes ICMFORMER_CONCURRENCY"),
)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ls_backend",
        description="The Label Studio ML backend. Settings come from the environment: see docs/label_studio.md.",
    )
    for option, variable, default, text in _OPTIONS:
        parser.add_argument(option, default=os.environ.get(variable, default), help=f"{text} (${variable}, {default})")
    args = parser.parse_args(argv)
    from gunicorn.app.wsgiapp import WSGIApplication

    sys.argv = [
        "gunicorn",
        *("--bind", f"{args.host}:{args.port}"),
        *("--workers", args.workers),
        *("--threads", args.threads),
        *("--worker-class", "gthread", "--timeout", "0", "--graceful-timeout", "10", "--no-control-socket"),
        *("--worker-tmp-dir", "/dev/shm" if os.path.isdir("/dev/shm") else "."),
        "ls_backend._wsgi:app",
    ]
    WSGIApplication("%(prog)s [OPTIONS]", prog="ls_backend").run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
