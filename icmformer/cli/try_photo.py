"""`icmformer try`: click on photos in a page of the browser."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from icmformer.cli.options import add_network_options
from icmformer.errors import ConfigError
from icmformer.inference.engine import Engine
from icmformer.settings import Settings
from icmformer.tryout.photos import Photos, find_photos
from icmformer.tryout.server import PageServer
from icmformer.tryout.site import Site

_PATIENCE = 10.0  # seconds for requests in progress when it ends
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "try",
        help="click on photos in the browser",
        description="Opens a page in the browser to click on photos, with the network on this machine behind it: "
        "left click on the object, right click on what is not the object, drag for a box. Ctrl-C ends it.",
        epilog="example: icmformer try photo.jpg",
    )
    parser.add_argument(
        "photos",
        type=Path,
        nargs="*",
        metavar="PHOTO",
        help="photo, or folder of photos; without any, the page opens those that are dropped on it",
    )
    add_network_options(parser)
    parser.add_argument("--port", type=int, default=0, help="port of the page (0: any that is free)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone can reach the page)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the page's address, and open no browser")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port must be a whole number from 0 to 65535, got {args.port}")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    photos = Photos(find_photos(args.photos), settings.max_pixels, settings.image_cache_mb << 20)
    weights = args.weights or settings.weights
    with _listening(args.host, args.port) as server:  # bound, and so found to be free, before the network loads
        engine = Engine.from_weights(weights, args.device, args.profile, settings=settings)
        engine.warm_up()
        server.site = Site(engine, photos, weights)
        server.server_activate()
        if server.open_to_others:
            told = "warning: whoever reaches port {} and learns the address can see the photos and use this machine"
            print(told.format(server.server_port), file=sys.stderr)
        print(f"serving {engine.weights.name} on {server.address}; Ctrl-C stops it", flush=True)
        if not args.no_browser and _has_screen():
            threading.Thread(target=_open, args=(server.invitation(),), daemon=True).start()
        _serve(server)
    return 0


@contextmanager
def _listening(host: str, port: int) -> Iterator[PageServer]:
    try:
        server = PageServer(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{host}:{port}: {reason}; --port and --host name others") from error
    with server:
        yield server


def _serve(server: PageServer) -> None:
    """Serves until it is interrupted or told to end."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            signal.signal(number, _interrupt)  # said outright: a script's background job starts with SIGINT ignored
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # it is ending already
        server.finish(_PATIENCE)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _has_screen() -> bool:
    """Whether a browser would have a window: without one, Python would start a browser in this terminal."""
    if sys.platform in ("win32", "darwin") or os.environ.get("BROWSER"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(address: str) -> None:
    with contextlib.suppress(Exception):  # whatever a browser's starter may raise: the address is printed
        webbrowser.open(address)
