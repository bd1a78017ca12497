"""CVAT's side of a request: the Nuclio handler and the agent function share it."""

from __future__ import annotations

from typing import Any

from icmformer import CleanUp, Engine, LoadedImage
from icmformer.images.reading import content_digest
from icmformer.inference.cache import ByteLRU, Cache
from icmformer.serving.core import ServingCore, SourceImage
from icmformer.serving.errors import NothingFoundError
from icmformer.serving.queue import Turn
from icmformer.serving.version_watch import starting_engine, watch_versions
from icmformer.types import MaskResult
from serverless import codec
from serverless.codec import CVATRequest
from serverless.settings import FunctionSettings


class CVATCodec:
    """Reads CVAT's requests and writes its replies.

    Args:
        settings: Of the function.
        images: Decoded images, by the content that CVAT sends again with every click.
    """

    tool = "cvat"
    ordered = False
    image_stage = "decode"

    def __init__(self, settings: FunctionSettings, images: Cache[LoadedImage] | None = None) -> None:
        self.settings = settings
        self.clean_up: CleanUp | None = settings.clean_up
        self.images: Cache[LoadedImage] = ByteLRU(settings.image_cache_mb << 20) if images is None else images

    def model_name(self, engine: Engine) -> str:
        weights = engine.weights
        return f"{weights.name} {weights.sha256[:8]} {engine.profile.name} {engine.device}"

    def parse(self, body: Any) -> CVATRequest:
        return codec.parse(body)

    def image(self, request: CVATRequest, turn: Turn | None) -> SourceImage:
        key = content_digest(request.image)
        image = self.images.get(key)
        if image is not None:
            return SourceImage(image, kept=True)
        content = codec.decode_base64(request.image)
        image = LoadedImage.from_bytes(content, self.settings.max_pixels, shown_by="cvat")
        self.images.put(key, image)
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
