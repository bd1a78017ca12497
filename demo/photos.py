"""The demo's photos: public-domain pictures that come with scikit-image."""

from __future__ import annotations

import io

from PIL import Image
from skimage import data

NAMES = ("rocket", "chelsea", "astronaut", "coffee", "coins")


def sample_photos() -> dict[str, bytes]:
    """File name -> JPEG."""
    photos = {}
    for name in NAMES:
        out = io.BytesIO()
        Image.fromarray(getattr(data, name)()).convert("RGB").save(out, "JPEG", quality=95)
        photos[f"{name}.jpg"] = out.getvalue()
    return photos
