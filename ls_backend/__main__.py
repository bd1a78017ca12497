"""`icmformer serve label-studio`: serves Label Studio's requests with gunicorn."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import Any

from icmformer.errors import ConfigError, IcmformerError
from icmformer.fetching.label_studio import LabelStudio
from icmformer.serving.errors import FetchError
from icmformer.serving.logs import log_config, shared_metrics
from icmformer.weights import RANDOM_PREFIX, load, locate

from .settings import BackendSettings
from .training_options import training_store
from .training_runs import open_runs

_SPARE_THREADS = 8  # for those who ask how it is while clicks wait
_GRACE_SECONDS = 10  # at the end, for a click that came to its turn at the last moment


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="icmformer serve label-studio",
        description="The Label Studio ML backend. Settings come from the environment: see docs/label_studio.md.",
    )
    variable = os.environ.get
    parser.add_argument(
        "--host", default=variable("HOST", "127.0.0.1"), help="address ($HOST, 127.0.0.1); 0.0.0.0 for all"
    )
    parser.add_argument("--port", default=variable("PORT", "9090"), help="port ($PORT, 9090)")
    parser.add_argument(
        "--workers",
        default=variable("WORKERS", "1"),
        help="processes, each with a model and caches of its own ($WORKERS, 1)",
    )
    parser.add_argument(
        "--threads",
        default=variable("THREADS", "0"),
        help="requests that a process holds at once, working and waiting ($THREADS); 0, the default: as many as "
        "ICMFORMER_CONCURRENCY and ICMFORMER_QUEUE need, and a smaller number is raised to that",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="check settings, weights, and Label Studio's address and token; serve nothing",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    args = _parser().parse_args(argv)
    try:
        if os.name == "nt":
            raise ConfigError("the backend needs Linux or macOS, as gunicorn does; on Windows, run it in WSL or Docker")
        port, workers, threads = (_whole(args, *bounds) for bounds in _BOUNDS)
        settings = BackendSettings.from_environment()
        if args.check:
            return _check(settings)
        if not settings.weights.startswith(RANDOM_PREFIX):
            locate(settings.weights, settings)  # an error here is one line; loading is the worker's
        if settings.training_dir is not None:
            training_store(settings, settings.user)
            open_runs(settings.training_dir)
        _try_port(args.host, port)
    except IcmformerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not settings.url:
        print(
            "warning: LABEL_STUDIO_URL is not set: uploads, local files and cloud storage of Label Studio cannot be "
            "fetched",
            file=sys.stderr,
        )
    threads = _threads(threads, settings.places + settings.queue)
    logs = log_config(settings.log_level, settings.log_format)
    with shared_metrics(workers):
        _serve(args.host, port, workers, threads, settings.queue_seconds + _GRACE_SECONDS, logs)
    return 0


_BOUNDS = (("port", 0, 65535), ("workers", 1, 64), ("threads", 0, 1000))


def _whole(args: argparse.Namespace, name: str, least: int, most: int) -> int:
    text = str(getattr(args, name))
    if not text.isdigit() or not least <= int(text) <= most:
        raise ConfigError(f"--{name} must be a whole number from {least} to {most}, got {text!r}")
    return int(text)


def _threads(wanted: int, requests: int) -> int:
    """Threads of a process: what its requests hold, working and waiting, and some for those who ask how it is."""
    if wanted and wanted <= requests:
        print(
            f"warning: {wanted} threads leave none for /health once {requests} requests are there; "
            f"{requests + _SPARE_THREADS} are used. A smaller ICMFORMER_QUEUE needs fewer",
            file=sys.stderr,
        )
    return wanted if wanted > requests else requests + _SPARE_THREADS


def _try_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose others with --host and --port"
        ) from error


def _check(settings: BackendSettings) -> int:
    if settings.training_dir is not None:
        print(f"training        {training_store(settings, settings.user)} can be trained and promoted to")
    print(f"weights         {load(settings.weights, settings).name}")
    if not settings.url:
        raise ConfigError("LABEL_STUDIO_URL is not set")
    studio = LabelStudio.from_settings(settings, limit=1 << 20)
    for what, path in (("Label Studio", "/api/version/"), ("token", "/api/current-user/whoami")):
        if what == "token" and not settings.api_key:
            print("token           none: LABEL_STUDIO_API_KEY is not set; only public images can be fetched")
            continue
        try:
            studio.fetch(studio.absolute(path))
        except FetchError as error:
            print(f"{what:15} FAILED: {error}")
            return 1
        print(f"{what:15} ok ({settings.url})")
    return 0


def _serve(host: str, port: int, workers: int, threads: int, grace: int, logs: dict[str, Any]) -> None:
    import gunicorn.sock
    from gunicorn.app.base import BaseApplication

    from .worker import Worker

    # gunicorn would listen at once, seconds before the model is there, and let callers hang. It is told that its
    # sockets listen already; the first worker that is ready makes it true.
    gunicorn.sock.BaseSocket._is_listening = staticmethod(lambda sock: True)

    class Server(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in {
                "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                "workers": workers,
                "threads": threads,
                "worker_class": Worker,
                "timeout": 0,
                "graceful_timeout": grace,
                "control_socket_disable": True,
                "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,
                "post_worker_init": _listen,
                "logconfig_dict": {**logs, "loggers": {"gunicorn.error": {"level": "INFO", "propagate": True}}},
                "proc_name": "ls_backend",
            }.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            from ._wsgi import app

            return app

    Server().run()


def _listen(worker: Any) -> None:
    for sock in worker.sockets:
        sock.listen(worker.cfg.backlog)


if __name__ == "__main__":
    sys.exit(main())
