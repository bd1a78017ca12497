"""`python -m demo`: what `make demo` runs once both environments are there."""

from __future__ import annotations

import argparse
import fcntl
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
    parser.add_argument("--studio-bin", type=Path, default=ROOT / ".venv-label-studio" / "bin")
    args = parser.parse_args(argv)
    args.home.mkdir(parents=True, exist_ok=True)
    with (args.home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            print(f"The demo is running already: {lock.read().strip() or 'it is just starting'}")
            return 0
        studio = Studio(args.home, args.studio_bin, Path(sys.executable))
        try:
            return _run(studio, lock)
        except StackError as error:
            print(f"\nerror: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must leave nothing running
            print("\nstopping ...", flush=True)
            studio.stop()


def _run(studio: Studio, lock: TextIO) -> int:
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    first = not (studio.home / "data").exists()
    print(
        f"Starting Label Studio and the backend{' (the first time takes a minute)' if first else ''} ",
        end="",
        flush=True,
    )
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

  1. Open a photo, turn "Auto-Annotation" on (below the photo), choose a label and the smart tool (magic wand).
  2. Click on an object: its mask appears. Click where a part is missing; Alt+click where there is too much.
  3. Accept the mask with the tick below the photo, then Submit.

  Ctrl-C stops both; `make demo` starts them again with your annotations; `make demo-reset` wipes everything.
  Logs: {studio.home / "logs"}
""",
        flush=True,
    )
    while True:
        time.sleep(1)
        for process in (studio.label_studio, studio.backend):
            if process.child is None or process.child.poll() is not None:
                raise StackError(f"{process.name} ended by itself; see {process.log}")


if __name__ == "__main__":
    sys.exit(main())
