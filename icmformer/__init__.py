"""icmformer: click-to-mask annotation with cross-modality vision transformers.

engine = icmformer.Engine.from_weights("starter")
result = engine.segment(image, clicks=[icmformer.Click(x=120, y=80)])
"""

from typing import TYPE_CHECKING, Any

from icmformer.errors import IcmformerError
from icmformer.geometry import CleanUp, Polygon, mask_to_polygons
from icmformer.imageio import LoadedImage, decode_image
from icmformer.types import Box, Click, MaskResult, Prompt

if TYPE_CHECKING:
    from icmformer.inference.engine import Caches, Engine

__version__ = "0.1.0"

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
    "Prompt",
    "__version__",
    "decode_image",
    "mask_to_polygons",
]


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first asked for: vocabulary, images and geometry do without."""
    if name in ("Caches", "Engine"):
        from icmformer.inference import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
