"""`make bench-cvat`: what a click costs through the CVAT function's local server, first and later ones of a photo."""

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

import cv2
import numpy as np
from PIL import Image
from skimage import data

from demo.studio import ROOT, free_port

SIZE = (4000, 3000)
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry")
CLICKS = ((1800, 900), (1900, 1900), (2300, 1500), (2500, 2200))


def _photo(name: str) -> str:
    """A 12-megapixel JPEG, base64; some noise keeps its size that of a camera's."""
    pixels = cv2.resize(getattr(data, name)(), SIZE, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    pixels += np.random.default_rng(0).integers(-6, 7, pixels.shape, dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return base64.b64encode(out.getvalue()).decode()


def main() -> int:
    """Prints a row a photo and the medians."""
    port = free_port(0)
    command = [sys.executable, "-m", "serverless.local", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            if "serving" not in server.stdout.readline():
                print("error: the server did not start; run `make function` to see why", file=sys.stderr)
                return 1
            print(f"{SIZE[0]} x {SIZE[1]} pixels, profile {os.environ.get('ICMFORMER_PROFILE', 'fast')}; milliseconds")
            print(f"{'photo':<20} {'request':>9} {'reply':>8} {'first':>7} {'second':>7} {'third':>7} {'fourth':>7}")
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            rows = []
            for name in PHOTOS:
                image = _photo(name)
                times, size = [], 0
                for count in range(1, len(CLICKS) + 1):
                    body = {"image": image, "pos_points": CLICKS[:count], "neg_points": [], "obj_bbox": []}
                    content = json.dumps(body).encode()
                    call = urllib.request.Request(
                        f"http://127.0.0.1:{port}/", content, {"Content-Type": "application/json"}
                    )
                    start = time.perf_counter()
                    with direct.open(call, timeout=120) as reply:
                        size = max(size, len(reply.read()))
                    times.append(1000 * (time.perf_counter() - start))
                rows.append(times)
                told = " ".join(f"{t:7.0f}" for t in times)
                print(f"{name:<20} {len(image) / 1e6:>6.1f} MB {size / 1e3:>5.1f} kB {told}", flush=True)
            first, *later = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"medians: {first:.0f}; later clicks " + ", ".join(f"{t:.0f} ({t / first:.2f} of it)" for t in later))
        finally:
            server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
