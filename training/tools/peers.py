"""Other networks that turn clicks into masks, for `training.bench`: what a click costs with them, weights at random.

They are timed where the package `transformers` is installed: `pip install transformers`, no weights are downloaded.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from icmformer.types import RGBImage

_SAM_SIDE = 1024


@dataclass(frozen=True)
class Peer:
    """A network, ready to be timed on one photo.

    Attributes:
        name: For the table.
        first: A first click: the photo is resized and encoded, and the mask decoded to its size.
        later: A later click: the mask is decoded from what was kept.
    """

    name: str
    first: Callable[[], object]
    later: Callable[[], object]


_PEERS = (("SAM ViT-B", "SamConfig", "SamModel"), ("SAM 2.1 Hiera-T", "Sam2Config", "Sam2Model"))


def installed() -> bool:
    """Whether there are any."""
    return importlib.util.find_spec("transformers") is not None


def peers(image: RGBImage) -> Iterator[Peer]:
    """Makes one network after the other, in fp32 on the CPU, as they are published; those that the package has.

    Args:
        image: The photo.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import transformers

    for name, config, kind in _PEERS:
        if hasattr(transformers, kind):  # the second is not in older versions
            network = getattr(transformers, kind)(getattr(transformers, config)()).eval()
            yield _peer(f"{name}, transformers {transformers.__version__}", network, image)


def _peer(name: str, network: Any, image: RGBImage) -> Peer:
    """Both generations take the photo at 1024 x 1024, and a click in pixels of that."""
    height, width = image.shape[:2]
    points, labels = torch.tensor([[[[461.0, 512.0]]]]), torch.tensor([[[1]]])

    @torch.inference_mode()
    def encode() -> Any:
        resized = cv2.resize(image, (_SAM_SIDE, _SAM_SIDE), interpolation=cv2.INTER_LINEAR)
        pixels = torch.from_numpy(resized.transpose(2, 0, 1).astype(np.float32))[None] / 255
        return network.get_image_embeddings((pixels - 0.45) / 0.225)

    @torch.inference_mode()
    def decode(embeddings: Any) -> Any:
        found = network(image_embeddings=embeddings, input_points=points, input_labels=labels, multimask_output=False)
        logits = found.pred_masks.reshape(found.pred_masks.shape[-2:]).numpy()
        return cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR) > 0

    kept = encode()
    return Peer(name, lambda: decode(encode()), lambda: decode(kept))
