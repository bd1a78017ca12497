"""The engine behind CVAT's requests: the Nuclio handler and the agent function call it alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from icmformer import Caches, Engine, LoadedImage
from icmformer.images.reading import content_digest
from icmformer.inference.cache import ByteLRU, Cache
from icmformer.settings import Settings
from icmformer.timings import Timings
from icmformer.types import BoolMask, Box, Click
from serverless import codec
from serverless.errors import NothingFoundError
from serverless.settings import FunctionSettings


class Interactor:
    """Answers requests with one engine.

    Args:
        engine: Ready to segment.
        images: Decoded images, by the content that CVAT sends again with every click.
        settings: Of the function.
        max_pixels: Largest image opened.
    """

    def __init__(self, engine: Engine, images: Cache[LoadedImage], settings: FunctionSettings, max_pixels: int) -> None:
        self.engine, self.settings = engine, settings
        self._images, self._max_pixels = images, max_pixels
        self.caches: dict[str, Cache[Any]] = {
            "features": engine.caches.features,
            "states": engine.caches.states,
            "images": images,
        }
        self.model = f"{engine.weights.name} {engine.weights.sha256[:8]} {engine.profile.name} {engine.device}"

    @staticmethod
    def from_settings(settings: Settings, own: FunctionSettings) -> Interactor:
        """Loads the weights and warms up.

        Raises:
            IcmformerError: Weights, device or settings that cannot be used.
        """
        if settings.threads:
            import torch

            torch.set_num_threads(settings.threads)
        engine = Engine.from_weights(
            settings.weights, settings.device, settings.profile, Caches.bounded(settings), settings.runtime, settings
        )
        engine.warm_up()
        return Interactor(engine, ByteLRU(settings.image_cache_mb << 20), own, settings.max_pixels)

    def answer(self, body: Any, facts: dict[str, Any], timings: Timings | None = None) -> bytes:
        """Answers the body of a request.

        Args:
            body: See `codec.parse`.
            facts: Takes what there is to log, as far as it gets: clicks, size, score, milliseconds by stage; and
                `result`, which is `mask`, `empty` or `nothing clicked`.
            timings: Takes the stages too, those of the engine as `segment.STAGE`.

        Returns:
            JSON for CVAT; no shape where no prompt says where to look.

        Raises:
            RequestError: A body that is not what CVAT sends.
            ImageError: An image that cannot be opened.
            PromptError: A prompt that does not fit the image.
            NothingFoundError: An empty mask for clicks on an object, which the configured reply form cannot say.
        """
        timings = Timings() if timings is None else timings
        with timings.stage("parse"):
            request = codec.parse(body)
        facts |= {
            "positive": len(request.positive),
            "negative": len(request.negative),
            "box": request.corners is not None,
            "image_bytes": len(request.image) * 3 // 4,
        }
        if request.empty:
            facts["result"] = "nothing clicked"
            return codec.NOTHING[self.settings.reply]  # the image is not looked at
        with timings.stage("decode"):
            image, kept = self._image(request.image)
        height, width = image.pixels.shape[:2]
        facts |= {"width": width, "height": height, "image_kept": kept}
        clicks, box = request.prompt(height, width)
        with timings.stage("segment"):
            mask, score, parts = self.segment(image, clicks, box)
        timings.within("segment", parts)
        with timings.stage("encode"):
            reply = self._encode(mask)
        facts |= {"result": "mask" if mask.any() else "empty", "area": round(float(mask.mean()), 5)}
        facts |= {"score": round(score, 3), "bytes": len(reply)}
        facts |= {f"{stage}_ms": round(spent, 1) for stage, spent in timings.items()}
        return reply

    def segment(
        self, image: LoadedImage, clicks: tuple[Click, ...], box: Box | None
    ) -> tuple[BoolMask, float, Mapping[str, float]]:
        """The (H, W) bool mask for CVAT's prompts, its score, and milliseconds by stage.

        The mask is empty where no prompt says where to look.

        Raises:
            PromptError: A prompt that does not fit the image.
        """
        if not clicks and box is None:
            return np.zeros(image.pixels.shape[:2], bool), 0.0, {}
        result = self.engine.segment(image, clicks, box, ordered=False, clean_up=self.settings.clean_up)
        return result.mask, result.score, result.timings

    def _image(self, coded: bytes) -> tuple[LoadedImage, bool]:
        """The image of a base64 text, and whether it was decoded before."""
        key = content_digest(coded)
        image = self._images.get(key)
        if image is not None:
            return image, True
        image = LoadedImage.from_bytes(codec.decode_base64(coded), self._max_pixels, shown_by="cvat")
        self._images.put(key, image)
        return image, False

    def _encode(self, mask: BoolMask) -> bytes:
        if self.settings.reply == "shapes":
            return codec.shapes_reply(mask, self.settings.parts)
        if not mask.any():  # CVAT's page then says that it failed, and keeps the mask of the clicks before
            raise NothingFoundError("nothing found for these clicks; click on the object, or draw a box around it")
        return codec.mask_reply(mask)
