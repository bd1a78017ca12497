"""`icmformer warm-up --job 17`: has the function see a job's frames before the annotators come.

Clicks once in the middle of every frame, through CVAT itself, and forgets the masks: CVAT then has the frame at hand,
and the function has it decoded and encoded, so that an annotator's first click is as fast as the later ones, except on
small objects, where some weights run a refinement pass. Nothing is written to the job. Needs cvat-sdk.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from icmformer.errors import ConfigError

_SECONDS = 120  # CVAT's own patience with a function
_PATIENCE = 5  # failures in a row


@dataclass(frozen=True)
class _Frame:
    job: int
    number: int
    width: int
    height: int


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="icmformer warm-up",
        description="Sends the frames of a job or task to CVAT's interactor before annotators click: first clicks are "
        "then as fast as later ones, except on small objects, where some weights run a refinement pass. Nothing is "
        "written to the job.",
        epilog="Frames are sent from the last to the first. How many stay warm depends on ICMFORMER_IMAGE_CACHE_MB and "
        "ICMFORMER_FEATURE_CACHE_MB of the function; each of its workers and replicas has its own caches, and a frame "
        "warms only those of the worker that gets it.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--job", type=int, help="number of the job, as in its address")
    what.add_argument("--task", type=int, help="number of the task: all of its jobs")
    parser.add_argument("--frames", type=_span, metavar="FIRST-LAST", help="only these frames, as numbered in CVAT")
    parser.add_argument("--function", default="icmformer", help="the function's name in Nuclio (icmformer)")
    return parser


def _span(text: str) -> range:
    first, dash, last = text.partition("-")
    try:
        found = range(int(first), int(last if dash else first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST-LAST, like 0-99") from None
    if not found or found.start < 0:
        raise argparse.ArgumentTypeError(f"{text!r} holds no frame")
    return found


def _frames(client: Any, args: argparse.Namespace) -> Iterator[_Frame]:
    """The frames to see, without deleted ones and each once: jobs may overlap."""
    if args.job is not None:
        jobs = [client.jobs.retrieve(args.job)]
    else:
        jobs = [job for job in client.tasks.retrieve(args.task).get_jobs() if str(job.type) == "annotation"]
    seen: set[int] = set()
    for job in jobs:
        meta = job.get_meta()
        gone = set(meta.deleted_frames or ())
        numbers = range(job.start_frame, job.stop_frame + 1)
        if len(meta.frames) not in (1, len(numbers)):  # a ground truth job, say, holds some frames of its span alone
            raise ConfigError(
                f"job {job.id} has only some of the frames of its span (a ground truth job?); give an annotation job"
            )
        for place, number in enumerate(numbers):
            if number in gone or number in seen or (args.frames and number not in args.frames):
                continue
            seen.add(number)
            shape = meta.frames[min(place, len(meta.frames) - 1)]  # one stands for all frames of a video
            yield _Frame(job.id, number, shape.width, shape.height)


def _click(client: Any, function: str, frame: _Frame) -> None:
    """One click in the middle of a frame."""
    middle = [frame.width / 2, frame.height / 2]
    body = {"job": frame.job, "frame": frame.number, "pos_points": [middle], "neg_points": [], "obj_bbox": []}
    # not lambda_api.create_functions: it knows job and task alone, and makes floats of other whole numbers
    client.api_client.call_api(
        "/api/lambda/functions/{name}",
        "POST",
        path_params={"name": function},
        header_params={"Content-Type": "application/json"},
        body=body,
        _parse_response=False,
        _request_timeout=_SECONDS,
    )


def _warm_up(client: Any, args: argparse.Namespace) -> int:
    """Clicks on every frame; a frame that fails is told and passed over, five in a row end it."""
    from cvat_sdk.api_client.exceptions import OpenApiException
    from tqdm import tqdm
    from urllib3.exceptions import HTTPError

    try:
        frames = list(_frames(client, args))
    except TypeError as error:  # what the SDK makes of an answer in another version's form
        print(
            f"error: this SDK does not understand that CVAT ({error}); install the SDK of its version", file=sys.stderr
        )
        return 2
    if not frames:
        print("error: no frames are selected; --frames counts as CVAT does, from 0", file=sys.stderr)
        return 2
    failed, in_a_row, done, started = 0, 0, 0, time.monotonic()
    # from the last to the first: where not all fit into the function's caches, those that are annotated first stay
    for frame in tqdm(frames[::-1], unit="frame", disable=None):
        try:
            _click(client, args.function, frame)
            in_a_row = 0
        except (OpenApiException, HTTPError) as error:
            failed, in_a_row = failed + 1, in_a_row + 1
            tqdm.write(f"frame {frame.number} of job {frame.job}: {_reason(error)}", file=sys.stderr)
        done += 1
        if in_a_row == _PATIENCE:
            print(f"error: {_PATIENCE} frames in a row failed; see the function and its log", file=sys.stderr)
            break
    print(f"{done - failed} of {len(frames)} frames seen in {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def _reason(error: Exception) -> str:
    """One line of what CVAT or the connection said."""
    body = getattr(error, "body", None)
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or error)
    status = getattr(error, "status", None)
    return f"{f'{status}: ' if status else ''}{' '.join(text.split())[:300]}"


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        0; 1 where frames failed; 2 for a mistake, or a CVAT that cannot be used; 130 for Ctrl-C.
    """
    parser = _parser()
    try:
        from cvat_sdk.api_client.exceptions import OpenApiException
        from cvat_sdk.core.auth import configure_client_auth_arguments, make_client_from_cli
        from cvat_sdk.core.exceptions import CvatSdkException
        from urllib3.exceptions import HTTPError, MaxRetryError
    except ImportError:
        parser.parse_args(argv)  # --help needs nothing
        print("error: this needs CVAT's SDK: pip install cvat-sdk", file=sys.stderr)
        return 2
    configure_client_auth_arguments(parser.add_argument_group("CVAT, as for cvat-cli"))
    args = parser.parse_args(argv)
    try:
        with make_client_from_cli(args) as client:
            return _warm_up(client, args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except EOFError:
        print("error: no login for CVAT: set CVAT_ACCESS_TOKEN, or give --auth or --profile", file=sys.stderr)
        return 2
    except MaxRetryError as error:
        where = getattr(error.pool, "host", "") or "the address"
        print(f"error: no CVAT answers at {where} ({error.reason}); --server-host names it", file=sys.stderr)
        return 2
    except (OpenApiException, CvatSdkException, HTTPError, OSError) as error:
        print(f"error: CVAT: {_reason(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
