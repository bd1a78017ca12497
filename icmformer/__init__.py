"""icmformer: click-to-mask annotation with cross-modality vision transformers.

engine = icmformer.Engine.from_weights("starter")
result = engine.segment(image, clicks=[icmformer.Click(x=120, y=80)])
"""

from icmformer.errors import IcmformerError
from icmformer.geometry import CleanUp, Polygon, mask_to_polygons
from icmformer.imageio import LoadedImage, decode_image
from icmformer.inference.engine import Caches, Engine
from icmformer.types import Box, Click, MaskResult, Prompt

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
