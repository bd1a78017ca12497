"""Prompts of several requests in one pass, for devices that have room for them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from icmformer.errors import DeviceMemoryError
from icmformer.inference.backends.base import Backend
from icmformer.inference.backends.torch import within_memory
from icmformer.models import ImageFeatures
from icmformer.timings import Timings


@dataclass(eq=False)
class _Waiting:
    features: ImageFeatures
    prev_mask: Tensor
    points: Tensor
    logits: Tensor | None = None
    error: BaseException | None = None

    @property
    def shape(self) -> tuple[tuple[int, int], int]:
        """What requests of one pass have in common."""
        return self.features.size, len(self.prev_mask)


class BatchingBackend(Backend):
    """Another backend, whose passes are shared by the requests that came while the device was busy.

    Nobody waits for company: a pass starts as soon as the device is free. Every pass is filled up to `batch` requests,
    so that all have the same shapes and a reply does not depend on who else clicked.

    Args:
        backend: Does the arithmetic.
        batch: How many requests a pass decodes.
    """

    def __init__(self, backend: Backend, batch: int) -> None:
        self.backend, self.batch = backend, batch
        self.identity = (backend.identity, batch)
        self.lock = backend.lock
        self._guard = threading.Lock()
        self._waiting: list[_Waiting] = []

    def encode(self, image: Tensor) -> ImageFeatures:
        return self.backend.encode(image)

    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        (logits,) = self._logits([_Waiting(features, prev_mask, points)])
        return logits

    def decode_in_turn(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor, timings: Timings) -> Tensor:
        mine = _Waiting(features, prev_mask, points)
        with self._guard:
            self._waiting.append(mine)
        try:
            with self.turn(timings):
                if mine.logits is None and mine.error is None:
                    with timings.stage("decode"):
                        self._run(self._taken(mine))
        finally:
            with self._guard:  # after Ctrl-C it may still be there
                self._waiting = [w for w in self._waiting if w is not mine]
        if isinstance(mine.error, DeviceMemoryError):
            raise DeviceMemoryError(str(mine.error))
        if mine.error is not None:
            raise RuntimeError(f"the pass that this request shared failed: {mine.error}") from mine.error
        assert mine.logits is not None
        return mine.logits

    def _taken(self, mine: _Waiting) -> list[_Waiting]:
        """A request and the first ones of those that can share its pass; they wait no longer."""
        with self._guard:
            others = [w for w in self._waiting if w is not mine and w.shape == mine.shape]
            chosen = [mine, *others[: self.batch - 1]]
            self._waiting = [w for w in self._waiting if w not in chosen]
        return chosen

    def _run(self, requests: list[_Waiting]) -> None:
        try:
            logits = self._logits(requests)
        except BaseException as error:
            for request in requests[1:]:  # the first one's is raised where it happened
                request.error = error
            raise
        for request, own in zip(requests, logits, strict=True):
            request.logits = own

    def _logits(self, requests: list[_Waiting]) -> list[Tensor]:
        filled = [*requests, *[requests[0]] * (self.batch - len(requests))]
        most = max(r.points.shape[1] for r in filled) // 2
        parts = list(zip(*(r.features.tensors for r in filled), strict=True))
        features = ImageFeatures(filled[0].features.size, within_memory(lambda: tuple(map(torch.cat, parts))))
        points = torch.cat([_padded(r.points, most) for r in filled])
        logits = self.backend.decode(features, torch.cat([r.prev_mask for r in filled]), points)
        return [part.clone() for part in logits.chunk(self.batch)[: len(requests)]]


def _padded(points: Tensor, count: int) -> Tensor:
    """(B, 2N, 3) points with absent ones added, up to `count` of each kind."""
    kinds = points.chunk(2, dim=1)
    return torch.cat([F.pad(kind, (0, 0, 0, count - kind.shape[1]), value=-1.0) for kind in kinds], dim=1)
