"""`make bench-cvat`: what a click costs through the CVAT function's local server, by the size of the photo."""

from __future__ import annotations

import base64
import io
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import Any

import cv2
import numpy as np
from PIL import Image
from skimage import data

from demo.studio import ROOT, free_port
from training.tools.machine import machine

MEGAPIXELS = (1, 12, 50)
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry")
CLICKS = ((0.45, 0.3), (0.475, 0.63), (0.575, 0.5), (0.625, 0.73))  # shares of width and height


def _size(megapixels: float) -> tuple[int, int]:
    """Width and height, four to three."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    return height * 4 // 3, height


def _photo(name: str, size: tuple[int, int]) -> str:
    """A JPEG, base64; some noise keeps its size that of a camera's."""
    pixels = cv2.resize(getattr(data, name)(), size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    pixels += np.random.default_rng(0).integers(-6, 7, pixels.shape, dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return base64.b64encode(out.getvalue()).decode()


def _stages(header: str) -> dict[str, float]:
    """Milliseconds by stage, of a Server-Timing header."""
    parts = (part.strip().partition(";dur=") for part in header.split(","))
    return {name: float(spent) for name, _, spent in parts}


class _Bench:
    """Clicks on photos through one server."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/"
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def clicks(self, name: str, megapixels: float) -> list[tuple[float, dict[str, float]]]:
        """Milliseconds of each click on a photo, and of its stages in the handler; prints a row."""
        size = _size(megapixels)
        image, found, reply_size = _photo(name, size), [], 0
        points = [(x * size[0], y * size[1]) for x, y in CLICKS]
        for count in range(1, len(points) + 1):
            body = {"image": image, "pos_points": points[:count], "neg_points": [], "obj_bbox": []}
            content = json.dumps(body).encode()
            call = urllib.request.Request(self._address, content, {"Content-Type": "application/json"})
            start = time.perf_counter()
            with self._direct.open(call, timeout=120) as reply:
                reply_size = max(reply_size, len(reply.read()))
                stages = _stages(reply.headers["Server-Timing"])
            found.append((1000 * (time.perf_counter() - start), stages))
        told = " ".join(f"{spent:7.0f}" for spent, _ in found)
        sizes = f"{len(image) / 1e6:>6.1f} MB {reply_size / 1e3:>5.1f} kB"
        print(f"{megapixels:>4g} MP  {name:<20} {sizes} {told}", flush=True)
        return found


def _handler_ms(stages: dict[str, float]) -> float:
    """What the handler took: parts of a stage are in it already."""
    return sum(spent for stage, spent in stages.items() if "." not in stage)


def _summary(rows: list[list[tuple[float, dict[str, float]]]]) -> dict[str, Any]:
    """Medians over photos, of a first click and of all later ones, and of the later ones' stages."""
    later = [click for row in rows for click in row[1:]]
    stages = {name for _, stages in later for name in stages}
    return {
        "first": statistics.median(row[0][0] for row in rows),
        "later": statistics.median(spent for spent, _ in later),
        "handler": statistics.median(_handler_ms(stages) for _, stages in later),
        "stages": {name: statistics.median(stages.get(name, 0) for _, stages in later) for name in sorted(stages)},
    }


def main() -> int:
    """Prints a row a photo, and medians by size."""
    port = free_port(0)
    command = [sys.executable, "-m", "icmformer", "serve", "cvat", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            if "serving" not in server.stdout.readline():
                print("error: the server did not start; run `make function` to see why", file=sys.stderr)
                return 1
            profile = os.environ.get("ICMFORMER_PROFILE", "fast")
            print(f"{machine()}; profile {profile}; milliseconds")
            clicks = " ".join(f"{which:>7}" for which in ("first", "second", "third", "fourth"))
            print(f"{'size':<8} {'photo':<20} {'request':>9} {'reply':>8} {clicks}")
            bench = _Bench(port)
            found = {size: _summary([bench.clicks(name, size) for name in PHOTOS]) for size in MEGAPIXELS}
        finally:
            server.terminate()
    print("\n| megapixels | first click | later click | its handler | both over the smallest photo's |")
    print("|---|---|---|---|---|")
    least = found[MEGAPIXELS[0]]
    for size, figures in found.items():
        times = " | ".join(f"{figures[kind]:.0f} ms" for kind in ("first", "later", "handler"))
        ratios = " and ".join(f"{figures[kind] / least[kind]:.2f}x" for kind in ("later", "handler"))
        print(f"| {size} | {times} | {ratios} |")
    names = [name for name in least["stages"] if max(f["stages"].get(name, 0) for f in found.values()) >= 0.1]
    print("\nStages of a later click in the handler:\n\n| megapixels | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for size, figures in found.items():
        print(f"| {size} | " + " | ".join(f"{figures['stages'].get(name, 0):.1f}" for name in names) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
