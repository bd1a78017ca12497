"""`python -m demo`: what `make demo` runs once both environments are there."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

from demo.photos import sample_photos
from demo.studio import CONFIGS, PASSWORD, ROOT, USER, StackError, Studio

TITLE = "Click to mask"


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--home", type=Path, default=ROOT / ".demo", help="folder for everything it writes (.demo)")
    parser.add_argument("--reset", action="store_true", help="delete that folder instead, unless the demo is running")
    parser.add_argument(
        "--studio-bin",
        type=Path,
        metavar="DIR",
        default=ROOT / ".venv-label-studio" / "bin",
        help="folder of the label-studio program to start (.venv-label-studio/bin)",
    )
    args = parser.parse_args(argv)
    args.home.mkdir(parents=True, exist_ok=True)
    with (args.home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            print(f"The demo is running already: {lock.read().strip() or 'it is just starting'}")
            if args.reset:
                print("Stop it first (Ctrl-C where it runs); nothing was deleted.")
            return int(args.reset)
        if args.reset:
            shutil.rmtree(args.home)
            print(f"deleted {args.home}")
            return 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)  # said outright: a script's background job starts with SIGINT ignored
        studio = Studio(args.home, args.studio_bin, Path(sys.executable), training="")
        try:
            return _run(studio, lock)
        except StackError as error:
            print(f"\nerror: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0  # how the demo is meant to end
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # an impatient second Ctrl-C must leave nothing running
            _tell("\nstopping ...")
            studio.stop()
            _tell("stopped; `make demo` starts it again with your annotations")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(text, flush=True)


def _run(studio: Studio, lock: TextIO) -> int:
    if studio.moved:
        print(studio.moved)
    note = " (the first time Label Studio sets up its database, which takes a minute)" if studio.first else ""
    print(f"Starting Label Studio and the backend{note} ", end="", flush=True)
    studio.start(lambda: print(".", end="", flush=True))
    number = studio.project(TITLE, CONFIGS["unified"], sample_photos())
    address = f"{studio.url}/projects/{number}/data"
    lock.truncate(0)
    lock.write(address)
    lock.flush()
    print(
        f"""

  {address}
  user      {USER}
  password  {PASSWORD}

  1. Open a photo and switch on "Auto-Annotation" (below it; leave "Auto accept" off). Choose a label, then the smart
     tool: the pink dots at the end of the toolbar on the right, "Auto-Detect", key M.
  2. Click on an object: its mask appears. Click where a part is missing; Alt+click where there is too much.
  3. Accept the mask with the tick below the photo, then Submit. A mask that was not accepted is lost.

  4. Once 50 photos of yours are annotated: Settings, Model, the dots of icmformer, Start Training. If the weights that
     it makes need fewer clicks, they answer from then on (docs/learning_loop.md).
     How it goes: {studio.backend_url}/training  user {studio.backend_login[0]}  password {studio.backend_login[1]}

  Export as PNG, NumPy or JSON; other labelling configs export COCO (docs/label_studio.md).
  Ctrl-C stops both; `make demo` starts them again with your annotations; `make demo-reset` deletes everything.
  Logs: {studio.home / "logs"}
""",
        flush=True,
    )
    while True:
        time.sleep(1)
        for process in (studio.label_studio, studio.backend):
            if process.child is None or process.child.poll() is not None:
                raise StackError(f"{process.name} stopped unexpectedly; see {process.log}")


if __name__ == "__main__":
    sys.exit(main())
