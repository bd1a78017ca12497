"""The engine: one image and one prompt in, one mask out."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from icmformer import memory
from icmformer.errors import ConfigError, IcmformerError, PromptError, WeightsError
from icmformer.geometry import CleanUp
from icmformer.images.reading import LoadedImage
from icmformer.inference.backends.openvino import OpenVINOBackend
from icmformer.inference.backends.torch import Backend, TorchBackend
from icmformer.inference.cache import ByteLRU, Cache, NullCache
from icmformer.inference.fallback import best_part
from icmformer.inference.predictor import Answer, ClickPath, State
from icmformer.inference.probability_map import ProbabilityMap, Whole
from icmformer.inference.profiles import Profile, find_device, find_profile, find_runtime, has_bf16
from icmformer.inference.prompts import as_box, as_clicks, checked_mask
from icmformer.inference.roi import ROI, PixelClick, ZoomSettings, expand, whole
from icmformer.inference.runner import SplitRunner
from icmformer.models import ImageFeatures, network_config
from icmformer.settings import Settings
from icmformer.timings import Timings
from icmformer.types import Box, Click, FloatMap, MaskResult, Prompt
from icmformer.weights import Weights, load

T = TypeVar("T")
log = logging.getLogger("icmformer")
_ENTRIES = 4  # a photo and regions of it that a feature cache should hold at the least
THRESHOLD = 0.49
"""Probability above which a pixel is in the mask, as published."""


@dataclass(frozen=True)
class Caches:
    """What an engine keeps between requests. All of it changes latency only.

    Attributes:
        features: Image features by crop.
        states: The network's answers by image and click prefix, so that one more click costs one more pass.
    """

    features: Cache[ImageFeatures] = field(default_factory=NullCache)
    states: Cache[Answer] = field(default_factory=NullCache)

    @staticmethod
    def bounded(settings: Settings | None = None) -> Caches:
        """LRU caches of the sizes in the settings."""
        settings = settings or Settings.from_environment()
        return Caches(ByteLRU(settings.feature_cache_mb << 20), ByteLRU(settings.state_cache_mb << 20))


class Engine:
    """Turns prompts into masks with one network. Safe to call from several threads.

    A reply is a pure function of image and prompt: the same for any caller, in any order, with warm or cold caches.

    Args:
        weights: The network.
        device: auto, cpu, cuda or cuda:N.
        profile: exact or fast.
        caches: Where features and states are kept; by default in memory, bounded by the settings.
        runtime: auto (OpenVINO on a CPU where it is installed), torch or openvino.
        settings: Of the environment, unless given: cache folder, passes shared by requests, compiling.

    Attributes:
        backend: What runs the network.

    Raises:
        DeviceError: A device that is not there.
        ConfigError: An unknown profile or runtime, or a runtime that is not installed.
    """

    def __init__(
        self,
        weights: Weights,
        device: str = "cpu",
        profile: str | Profile = "exact",
        caches: Caches | None = None,
        runtime: str = "auto",
        settings: Settings | None = None,
    ) -> None:
        self.weights = _typed(weights, Weights, WeightsError)
        self.profile = find_profile(profile)
        self.device = find_device(device)
        settings = settings or Settings.from_environment()
        self.caches = _typed(Caches.bounded(settings) if caches is None else caches, Caches, ConfigError)
        self.runtime = find_runtime(runtime, self.device)
        side = network_config(weights.config).img_size
        self.backend = self._build(side, settings)
        self._connect()

    def _connect(self) -> None:
        """Puts caches and click path around the backend."""
        weights, side = self.weights, network_config(self.weights.config).img_size
        self._runner = SplitRunner(self.backend, self.caches.features, weights.identity)
        serving = weights.serving
        zoom = ZoomSettings(target_size=(side, side), min_crop_size=serving.min_crop_size)
        self.path = ClickPath(self._runner, zoom, self.profile.flip, serving.second_look, serving.click_margin)
        self._identity: Hashable = (weights.identity, self.profile, self.backend.identity)

    def beside(
        self, caches: Caches | None = None, profile: str | Profile | None = None, weights: Weights | None = None
    ) -> Engine:
        """Another engine on the same network, which is neither loaded nor compiled again.

        Args:
            caches: Its own; by default in memory, bounded by the settings.
            profile: Another one of the same precision.
            weights: The same network, to be served otherwise.

        Raises:
            ConfigError: Another network, or a profile that computes in another precision.
        """
        profile = self.profile if profile is None else find_profile(profile)
        weights = _typed(self.weights if weights is None else weights, Weights, WeightsError)
        if profile.low_precision != self.profile.low_precision:
            raise ConfigError(f"the profile {profile.name} does not compute in the precision of {self.profile.name}")
        if (weights.sha256, weights.config) != (self.weights.sha256, self.weights.config):
            raise ConfigError(f"the weights {weights.name} are another network than {self.weights.name}")
        other = copy.copy(self)
        other.weights, other.profile = weights, profile
        other.caches = _typed(Caches.bounded() if caches is None else caches, Caches, ConfigError)
        other._connect()
        return other

    def _build(self, side: int, settings: Settings) -> Backend:
        if self.runtime == "openvino":
            low = self.profile.low_precision and has_bf16(self.device)
            return OpenVINOBackend(self.weights, low, torch.get_num_threads(), settings.cache_dir)
        network = self.weights.build(copy=False).to(self.device)
        network.check_size(side, side)
        precision = self.profile.precision(self.device)
        return TorchBackend(network, self.device, precision, settings.batch, settings.compile)

    @staticmethod
    def from_weights(
        path_or_name: str | Path,
        device: str = "cpu",
        profile: str | Profile = "exact",
        caches: Caches | None = None,
        runtime: str = "auto",
        settings: Settings | None = None,
    ) -> Engine:
        """Loads weights and makes an engine.

        Args:
            path_or_name: See `icmformer.weights.load`.
            device: As for the engine.
            profile: As for the engine.
            caches: As for the engine.
            runtime: As for the engine.
            settings: As for the engine.

        Raises:
            WeightsError: See `icmformer.weights.load`.
            DeviceError: A device that is not there.
            ConfigError: An unknown profile or runtime, or a runtime that is not installed.
        """
        return Engine(load(path_or_name), device, profile, caches, runtime, settings)

    def segment(
        self,
        image: NDArray[np.uint8] | LoadedImage,
        clicks: Sequence[Click] = (),
        box: Box | Sequence[float] | None = None,
        previous_mask: NDArray[np.bool_] | NDArray[np.floating] | None = None,
        *,
        ordered: bool = True,
        clean_up: CleanUp | None = None,
    ) -> MaskResult:
        """Segments one object.

        Clicks are replayed one by one, as the evaluation protocol plays them: in their order, or, with
        `ordered=False`, in the order that an annotator would have had reason for, each kind in its own order. A
        positive click always gives a mask: where the network finds nothing, the likeliest part under it. Negative
        clicks alone, with nothing to take away from, give an empty one.

        Args:
            image: (H, W, 3) uint8 RGB, or a `LoadedImage`, which spares naming its content again.
            clicks: On the object (positive) and off it.
            box: A box around the object, or its four coordinates (x1, y1, x2, y2).
            previous_mask: (H, W) bool, or float probabilities in [0, 1]: a mask to correct. One with nothing over 0.5
                counts as none; together with a box, what lies in the box is the first guess.
            ordered: Whether `clicks` are in the order in which they were made; False where a tool keeps positive and
                negative clicks apart.
            clean_up: What to tidy in the mask; the probabilities stay as they are.

        Returns:
            The mask with its probabilities, score, region and timings.

        Raises:
            ImageError: Not an RGB image.
            PromptError: Nothing to go by, or a prompt that does not fit the image.
            ConfigError: `clean_up` is no CleanUp.
        """
        if not isinstance(clean_up, CleanUp | None):
            raise ConfigError(f"clean_up must be a CleanUp, got {type(clean_up).__name__}")
        if not isinstance(ordered, bool | np.bool_):
            raise PromptError(f"clicks are ordered or not, True or False, got {type(ordered).__name__}")
        timings = Timings()
        with timings.stage("total"):
            with timings.stage("hash"):
                loaded = image if isinstance(image, LoadedImage) else LoadedImage.from_array(image)
            height, width = loaded.pixels.shape[:2]
            mask = None if previous_mask is None else checked_mask(previous_mask, height, width)
            prompt = Prompt(as_clicks(clicks), as_box(box), mask, bool(ordered))
            answer = self._answer(loaded, prompt, timings)
            with timings.stage("paste"):
                found: ProbabilityMap = answer.map if answer else Whole(np.zeros((height, width), np.float32))
                result = found.over(THRESHOLD)
                sure = bool(result.any())
                if not sure and any(click.positive for click in prompt.clicks):
                    result = best_part(found, prompt.clicks, height, width)
            if clean_up is not None:
                with timings.stage("clean_up"):
                    result = clean_up(result, prompt.clicks)
        roi = whole(height, width) if answer is None else answer.roi
        sharpness = self.weights.serving.score_sharpness
        score = 0.0 if answer is None or not (sure and result.any()) else expected_iou(answer.patch, sharpness)
        return MaskResult(result, score, roi, dict(timings), found.full)

    def prefetch(self, image: NDArray[np.uint8] | LoadedImage) -> None:
        """Encodes the whole image, which the first click on any of its objects will ask for."""
        loaded = image if isinstance(image, LoadedImage) else LoadedImage.from_array(image)
        self.path.prefetch(loaded, self._runner)

    def warm_up(self) -> None:
        """Runs one pass on a blank image, so that the first request does not pay for lazy initialisation.

        Says in the log where the feature cache is too small to be of use for this network.
        """
        self.segment(np.zeros((64, 64, 3), np.uint8), [Click(32, 32)])
        kept, cache = self._runner.entry_bytes, self.caches.features
        if isinstance(cache, ByteLRU) and cache.capacity < _ENTRIES * kept:
            log.warning(
                "the feature cache holds %d of this network's photos and regions, of %d MB each; set "
                "ICMFORMER_FEATURE_CACHE_MB to %d or more, or clicks on other objects wait for the photo to be encoded",
                cache.capacity // kept,
                -(-kept >> 20) or 1,
                -(-_ENTRIES * kept >> 20),
            )
        memory.release()  # much of what loading and converting took

    def _answer(self, image: LoadedImage, prompt: Prompt, timings: Timings) -> Answer | None:
        height, width = image.pixels.shape[:2]
        clicks = tuple(PixelClick(*c.pixel(height, width), c.positive) for c in prompt.clicks)
        if prompt.previous_mask is None and prompt.box is None:
            if not clicks:
                raise PromptError("nothing to go by: give at least one click, or a box")
            if not any(c.positive for c in clicks):
                return None
        elif prompt.box is None and not clicks:
            raise PromptError("a previous mask needs at least one click that corrects it")
        start, start_key, played = State.given(prompt.previous_mask), _mask_key(prompt.previous_mask), 0
        if prompt.box is not None:
            start_key = (start_key, prompt.box)
            start, own = self.profile.box(prompt.box, prompt.previous_mask, height, width)
            answer = self._kept(image, start_key, ())
            if answer is None:
                roi = expand(ROI(*prompt.box.pixels(height, width)), height, width, self.path.zoom)
                answer = self.path.advance(image, start, own, timings, roi)
                self._keep(image, start_key, (), answer)
            if not clicks:
                return answer
            start = answer.state()
            if not any(c.positive for c in clicks):
                clicks, played = (*own, *clicks), len(own)
                start_key = (start_key, played)  # the same clicks made by hand take a pass more
        if prompt.ordered:
            return self._replay(image, start, start_key, clicks, timings, played)
        if self.profile.unordered_passes is None:
            return self._replay_as_needed(image, start, start_key, clicks, timings, played)
        return self._together(image, start, start_key, clicks, self.profile.unordered_passes, timings)

    def _replay(
        self,
        image: LoadedImage,
        start: State,
        start_key: Hashable,
        clicks: tuple[PixelClick, ...],
        timings: Timings,
        played: int,
    ) -> Answer:
        """One pass a click, after the `played` first ones; passes made before for a prefix come from the cache."""
        first = played + 1 if start.map is not None else [c.positive for c in clicks].index(True) + 1
        answer = None
        done = len(clicks)
        while done >= first and (answer := self._kept(image, start_key, clicks[:done])) is None:
            done -= 1
        state = start if answer is None else answer.state()
        for count in range(max(first, done + 1), len(clicks) + 1):
            answer = self.path.advance(image, state, clicks[:count], timings)
            self._keep(image, start_key, clicks[:count], answer)
            state = answer.state()
        assert answer is not None
        return answer

    def _replay_as_needed(
        self,
        image: LoadedImage,
        start: State,
        start_key: Hashable,
        clicks: tuple[PixelClick, ...],
        timings: Timings,
        played: int,
    ) -> Answer:
        """One pass a click in the order that an annotator would have had reason for.

        The order within each kind is known, the one between them is not. A click is made where the mask is wrong: of
        the next positive and the next negative one, the one that the mask so far contradicts more comes first.
        """
        done, rest = clicks[:played], clicks[played:]
        waiting = {kind: [c for c in rest if c.positive == kind] for kind in (True, False)}
        answer, state = None, start
        while any(waiting.values()):
            positive = not waiting[False] or bool(waiting[True])
            if waiting[True] and waiting[False]:
                inside = state.at(*waiting[True][0][:2])
                outside = state.at(*waiting[False][0][:2])
                positive = inside is None or outside is None or 1 - inside >= outside
            done = (*done, waiting[positive].pop(0))
            answer = self._kept(image, start_key, done)
            if answer is None:
                answer = self.path.advance(image, state, done, timings)
                self._keep(image, start_key, done, answer)
            state = answer.state()
        assert answer is not None
        return answer

    def _together(
        self,
        image: LoadedImage,
        start: State,
        start_key: Hashable,
        clicks: tuple[PixelClick, ...],
        passes: int,
        timings: Timings,
    ) -> Answer:
        """All clicks in each pass; the order of the clicks does not matter."""
        key = frozenset(clicks)
        answer = self._kept(image, start_key, key)
        if answer is not None:
            return answer
        state, path = start, replace(self.path, second_look=False)  # further passes are looks enough
        for _ in range(passes if start.map is None else 1):
            answer = path.advance(image, state, clicks, timings)
            state = answer.state()
        assert answer is not None
        self._keep(image, start_key, key, answer)
        return answer

    def _kept(self, image: LoadedImage, start_key: Hashable, clicks: Hashable) -> Answer | None:
        return self.caches.states.get((self._identity, image.digest, start_key, clicks))

    def _keep(self, image: LoadedImage, start_key: Hashable, clicks: Hashable, answer: Answer) -> None:
        self.caches.states.put((self._identity, image.digest, start_key, clicks), answer)


def expected_iou(patch: FloatMap, sharpness: float) -> float:
    """The IoU to expect of a mask if every probability, sharpened, is taken at its word.

    Args:
        patch: Probabilities of the region looked at.
        sharpness: Factor on the log-odds against the threshold, the weights' own: networks trained with the normalised
            focal loss are less sure than they could be, and far from the object many small probabilities add up.

    Returns:
        Expected intersection over expected union of {p > threshold} and the object, in [0, 1].
    """
    inside = patch > THRESHOLD
    known = np.clip(patch, 1e-6, 1 - 1e-6)
    odds = known / (1 - known) * ((1 - THRESHOLD) / THRESHOLD)
    sharpened = 1 - 1 / (1 + odds**sharpness)
    union = float(inside.sum()) + float(sharpened[~inside].sum())
    return float(sharpened[inside].sum()) / union if union else 0.0


def _typed(given: T, kind: type[T], error: type[IcmformerError]) -> T:
    """An argument, which is seen to be of its kind."""
    if not isinstance(given, kind):
        raise error(f"expected {kind.__name__}, got {type(given).__name__}")
    return given


def _mask_key(mask: FloatMap | None) -> Hashable:
    return None if mask is None else hashlib.blake2b(np.ascontiguousarray(mask).data, digest_size=16).digest()
