"""icmformer: click-to-mask annotation with cross-modality vision transformers.

engine = icmformer.Engine.from_weights("starter")
result = engine.segment(image, clicks=[icmformer.Click(x=120, y=80)])
"""

import importlib
from typing import TYPE_CHECKING, Any

from icmformer.errors import IcmformerError
from icmformer.version import __version__

if TYPE_CHECKING:
    from icmformer.geometry import CleanUp, Polygon, mask_to_polygons
    from icmformer.images.reading import LoadedImage, decode_image
    from icmformer.inference.engine import Caches, Engine
    from icmformer.types import Box, Click, MaskResult

__all__ = [
    "Box",
    "Caches",
    "CleanUp",
    "Click",
    "Engine",
    "IcmformerError",
    "LoadedImage",
    "MaskResult",
    "Polygon",
    "__version__",
    "decode_image",
    "mask_to_polygons",
]


_HOMES = {
    "geometry": ("CleanUp", "Polygon", "mask_to_polygons"),
    "images.reading": ("LoadedImage", "decode_image"),
    "inference.engine": ("Caches", "Engine"),
    "types": ("Box", "Click", "MaskResult"),
}


def __dir__() -> list[str]:
    """What there is to complete."""
    return sorted({*__all__, *globals()})


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is first asked for: `icmformer doctor` runs whatever package is broken."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"icmformer.{home}"), name)
        if name == home:
            return importlib.import_module(f"icmformer.{home}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
