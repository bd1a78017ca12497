"""Runs a network on one crop: whole, or in two steps with the image's features kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor

from icmformer import memory
from icmformer.inference.backends.batching import Batcher
from icmformer.inference.backends.torch import Backend
from icmformer.inference.cache import Cache
from icmformer.models import ImageFeatures
from icmformer.timings import Timings

_RELEASE_EVERY = 32  # crops encoded between two times that freed memory is given back

NetworkCallable = Callable[[Tensor, Tensor, Tensor], Tensor]


class Runner(Protocol):
    """From a crop and its prompt to logits."""

    def logits(
        self, key: Hashable, image: Callable[[], Tensor], prev_mask: Tensor, points: Tensor, timings: Timings
    ) -> Tensor:
        """Runs the network.

        Args:
            key: Names the content of the image tensor.
            image: Makes the (B, 3, H, W) image tensor; called only when it is needed.
            prev_mask: (B, 1, H, W).
            points: (B, 2N, 3).
            timings: Where stages are added.

        Returns:
            (B, 1, H, W) float32 logits on the CPU.
        """
        ...


class WholeRunner:
    """Calls any callable with a network's signature, without caches."""

    def __init__(self, network: NetworkCallable) -> None:
        self._network = network

    def logits(
        self, key: Hashable, image: Callable[[], Tensor], prev_mask: Tensor, points: Tensor, timings: Timings
    ) -> Tensor:
        with timings.stage("crop"):
            pixels = image()
        with timings.stage("network"), torch.inference_mode():
            return self._network(pixels, prev_mask, points).float().cpu()


class SplitRunner:
    """Encodes a crop once and decodes each prompt from the kept features.

    One pass runs at a time on a device: a pass already uses all of it. Hits and misses take the same two steps on the
    same shapes, so they give the same bits.

    Args:
        backend: Does the arithmetic.
        cache: Keeps features by the crop's key.
        identity: Names the network, so that engines may share a cache.

    Attributes:
        entry_bytes: What the last encoded crop takes in the cache.
    """

    def __init__(self, backend: Backend, cache: Cache[ImageFeatures], identity: Hashable = None) -> None:
        self.backend = backend
        self._cache = cache
        self._identity = (identity, backend.identity)
        self._encoded = 0
        self.entry_bytes = 0
        self._batcher = Batcher(backend)

    def logits(
        self, key: Hashable, image: Callable[[], Tensor], prev_mask: Tensor, points: Tensor, timings: Timings
    ) -> Tensor:
        features = self.features(key, image, timings)
        return self._batcher.decode(features, prev_mask, points, timings)

    def features(self, key: Hashable, image: Callable[[], Tensor], timings: Timings) -> ImageFeatures:
        """The crop's features, from the cache or encoded now."""
        key = (self._identity, key)
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        with timings.stage("crop"):
            pixels = image()
        with timings.stage("wait"):
            self.backend.lock.acquire()
        try:
            meanwhile = self._cache.peek(key)  # somebody else may have encoded it while this one waited
            if meanwhile is not None:
                return meanwhile
            with timings.stage("encode"):
                features = self.backend.encode(pixels)
            self._cache.put(key, features)
            self.entry_bytes = features.nbytes
            self._encoded += 1
            release = self._encoded % _RELEASE_EVERY == 0
        finally:
            self.backend.lock.release()
        if release:
            with timings.stage("release"):
                memory.release()
        return features
