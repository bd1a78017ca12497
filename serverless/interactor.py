"""CVAT's side of a request: the Nuclio handler and the agent function share it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from icmformer import CleanUp, Engine, LoadedImage
from icmformer.inference.cache import ByteLRU, Cache
from icmformer.serving.core import ServingCore, SourceImage
from icmformer.serving.errors import NothingFoundError
from icmformer.serving.queue import Turn
from icmformer.serving.version_watch import starting_engine, watch_versions
from icmformer.types import MaskResult

from . import codec
from .codec import CVATRequest
from .settings import FunctionSettings

_PIECES, _PIECE = 16, 32  # of an image that name it


@dataclass(frozen=True)
class SentImage:
    """An image as CVAT sent it, and decoded.

    Attributes:
        sent: Base64, as the request has it.
        image: What it holds.
    """

    sent: str | bytes
    image: LoadedImage

    @property
    def nbytes(self) -> int:
        """Bytes held, for bounded caches."""
        return len(self.sent) + self.image.nbytes


def _name(sent: str | bytes) -> Hashable:
    """What tells most images apart, read from a few places of them alone."""
    step = max(len(sent) // _PIECES, 1)
    return len(sent), tuple(sent[start : start + _PIECE] for start in range(0, len(sent), step))


class CVATCodec:
    """Reads CVAT's requests and writes its replies.

    Args:
        settings: Of the function.
        images: Images that CVAT sends again with every click; by default as many as fit into what the settings say.
    """

    tool = "cvat"
    ordered = False
    image_stage = "decode"

    def __init__(self, settings: FunctionSettings, images: Cache[SentImage] | None = None) -> None:
        self.settings = settings
        self.clean_up: CleanUp | None = settings.clean_up
        self.images: Cache[SentImage] = ByteLRU(settings.image_cache_mb << 20) if images is None else images

    def model_name(self, engine: Engine) -> str:
        weights = engine.weights
        return f"{weights.name} {weights.sha256[:8]} {engine.profile.name} {engine.device}"

    def parse(self, body: Any) -> CVATRequest:
        return codec.parse(body)

    def image(self, request: CVATRequest, turn: Turn | None) -> SourceImage:
        name, sent = _name(request.image), request.image
        known = self.images.get(name)
        if known is not None and known.sent == sent:  # to compare is ten times as fast as to compute a digest
            return SourceImage(known.image, kept=True)
        image = LoadedImage.from_bytes(codec.decode_base64(sent), self.settings.max_pixels, shown_by="cvat")
        self.images.put(name, SentImage(sent, image))
        return SourceImage(image, kept=False)

    def encode(self, request: CVATRequest, result: MaskResult, model: str) -> bytes:
        if self.settings.reply == "shapes":
            return codec.shapes_reply(result.runs, self.settings.parts)
        if not result.runs:  # CVAT's page then says that it failed, and keeps the mask of the clicks before
            raise NothingFoundError("nothing was found for these clicks; click on the object, or draw a box around it")
        return codec.mask_reply(result.mask)

    def no_mask(self) -> bytes:
        return codec.NOTHING[self.settings.reply]


Interactor = ServingCore[CVATRequest, bytes]


def load(settings: FunctionSettings) -> Interactor:
    """Loads the model of the settings, and follows its versions; nothing is counted.

    Raises:
        IcmformerError: Weights, device or settings that cannot be used.
    """
    interactor = Interactor(starting_engine(settings), CVATCodec(settings))
    watch_versions(interactor, settings)
    return interactor
