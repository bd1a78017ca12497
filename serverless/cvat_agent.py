"""The agent function for CVAT Online and Enterprise, where an agent of one's own asks CVAT for work.

    cvat-cli function create-native icmformer --function-file serverless/cvat_agent.py
    cvat-cli function run-agent ID --function-file serverless/cvat_agent.py

Parameters, by `-p NAME=str:VALUE`: weights, device, profile; without them the environment's settings hold. With
`-p box=bool:true`, for both commands, CVAT's page offers to start with a box; that is on at first, and a click alone
then does nothing.
"""

from __future__ import annotations

import dataclasses

import cvat_sdk.auto_annotation as cvataa
import PIL.Image

# in full: cvat-cli loads this file by itself, without a package
from icmformer.applications.serverless import codec
from icmformer.applications.serverless.interactor import Interactor, load
from icmformer.applications.serverless.rle import encode_mask
from icmformer.applications.serverless.settings import FunctionSettings

from icmformer import LoadedImage


class InteractiveFunction:
    """What CVAT's agent calls.

    Args:
        interactor: Ready to segment.
        settings: Of the function.
        box: Whether an annotator may start with a box.
    """

    def __init__(self, interactor: Interactor, settings: FunctionSettings, box: bool = False) -> None:
        self._interactor, self._settings = interactor, settings
        self.spec = cvataa.InteractionFunctionSpec(
            min_pos_points=0, min_neg_points=0, min_bounding_boxes=0 if box else None
        )

    def preprocess_image(self, context: cvataa.InteractionFunctionContext, image: PIL.Image.Image) -> LoadedImage:
        """Decodes and encodes a frame; the agent keeps the result for the clicks that follow."""
        loaded = LoadedImage.from_pil(image, self._settings.max_pixels, "cvat")
        self._interactor.engine.prefetch(loaded)
        return loaded

    def detect(
        self, context: cvataa.InteractionFunctionContext, pp_image: LoadedImage, prompts: cvataa.InteractionPrompts
    ) -> list[cvataa.InteractionResultShape]:
        """One mask shape, or one for each part where that is set; none for an empty mask.

        Raises:
            PromptError: A prompt that does not fit the image.
        """
        height, width = pp_image.pixels.shape[:2]
        corners = prompts.bounding_box and (*prompts.bounding_box[0], *prompts.bounding_box[1])
        clicks, box = codec.to_prompt(tuple(prompts.pos_points), tuple(prompts.neg_points), corners, height, width)
        if not clicks and box is None:
            return []
        found = self._interactor.segment(pp_image, clicks, box)
        shapes = encode_mask(found.runs, self._settings.parts)
        return [cvataa.InteractionResultShape(type="mask", points=points) for points in shapes]


def create(weights: str = "", device: str = "", profile: str = "", box: bool = False) -> InteractiveFunction:
    """Makes the function; `cvat-cli` calls it with its `-p` parameters.

    Raises:
        IcmformerError: Weights, device or settings that cannot be used.
    """
    base = FunctionSettings.from_environment()
    settings = dataclasses.replace(
        base, weights=weights or base.weights, device=device or base.device, profile=profile or base.profile
    )
    return InteractiveFunction(load(settings), settings, box)
