"""The engine: an image, and what an annotator said about one object in it, to a mask."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from icmformer import memory
from icmformer.errors import ConfigError, IcmformerError, PromptError, WeightsError
from icmformer.geometry import CleanUp
from icmformer.images.reading import LoadedImage
from icmformer.inference.backends.base import Backend
from icmformer.inference.backends.batching import BatchingBackend
from icmformer.inference.backends.int8 import RangesError
from icmformer.inference.backends.openvino import OpenVINOBackend
from icmformer.inference.backends.torch import Precision, TorchBackend, within_memory
from icmformer.inference.cache import ByteLRU, Cache, NullCache
from icmformer.inference.fallback import best_part
from icmformer.inference.places import Places
from icmformer.inference.predictor import Prediction, Predictor
from icmformer.inference.profiles import Profile, find_arithmetic, find_device, find_profile, find_runtime
from icmformer.inference.prompts import as_box, as_clicks, checked_mask
from icmformer.inference.replay import Replay
from icmformer.inference.roi import PixelClick, ZoomSettings, whole
from icmformer.models import ImageFeatures, network_config
from icmformer.settings import Settings
from icmformer.timings import Timings
from icmformer.types import Box, Click, FloatMap, MaskResult
from icmformer.weights import ServingDefaults, Weights, load

T = TypeVar("T")
log = logging.getLogger("icmformer")
_ENTRIES = 4  # an image and ROIs of it that a feature cache should hold at the least


@dataclass(frozen=True)
class Caches:
    """What an engine keeps between requests. All of it changes latency only.

    Attributes:
        features: Image features by crop.
        states: Predictions by image and click prefix, so that one more click costs one more step.
    """

    features: Cache[ImageFeatures] = field(default_factory=NullCache)
    states: Cache[Prediction] = field(default_factory=NullCache)

    @staticmethod
    def bounded(settings: Settings | None = None) -> Caches:
        """LRU caches in memory of the sizes in the settings, those of the environment unless given."""
        settings = settings or Settings.from_environment()
        return Caches(ByteLRU(settings.feature_cache_mb << 20), ByteLRU(settings.state_cache_mb << 20))


class Engine:
    """Turns prompts into masks with one network. Safe to call from several threads.

    A reply is a pure function of image and prompt: the same for any caller, in any order, with warm or cold caches.

    Args:
        weights: The network.
        device: auto, cpu, cuda or cuda:N; None for what the settings say.
        profile: exact or fast; None for what the settings say.
        caches: Where features and predictions are kept; by default in memory, bounded by the settings.
        runtime: auto (OpenVINO on a CPU where it is installed), torch or openvino; None for what the settings say.
        settings: Those of the environment, unless given.

    Attributes:
        weights: The network that it has.
        device: Where that runs, a `torch.device`.
        runtime: What runs it: torch or openvino.
        profile: How; its `name` is exact or fast.
        arithmetic: What its products are computed in: fp32, bf16 or int8.
        settings: Those that hold for it.
        caches: What it keeps between requests.
        backend: What runs the network.
        predictor: The steps from clicks to masks, one at a time.

    Raises:
        DeviceError: A device that is not there, or without memory for the network (`DeviceMemoryError`).
        ConfigError: An unknown profile, runtime or precision, or one that cannot be had here; from the first click on,
            where the settings ask for int8: ranges that do not fit the network (`RangesError`).
    """

    def __init__(
        self,
        weights: Weights,
        device: str | None = None,
        profile: str | Profile | None = None,
        caches: Caches | None = None,
        runtime: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.weights = _typed(weights, Weights, WeightsError)
        self.settings = settings = settings or Settings.from_environment()
        self.profile = find_profile(settings.profile if profile is None else profile)
        self.device = find_device(settings.device if device is None else device)
        self.runtime = find_runtime(settings.runtime if runtime is None else runtime, self.device)
        self.arithmetic = find_arithmetic(
            settings.precision, self.profile, self.device, self.runtime, self.weights.int8 is not None
        )
        self.backend = self._build()
        shared = settings.batch if isinstance(self.backend, BatchingBackend) else 1
        self._places = Places(2 * shared if shared > 1 or self.device.type == "cuda" else 1)
        self._connect(caches)

    def _connect(self, caches: Caches | None) -> None:
        """Puts caches and predictor around the backend."""
        weights, side = self.weights, network_config(self.weights.config).img_size
        self.caches = _typed(Caches.bounded(self.settings) if caches is None else caches, Caches, ConfigError)
        self.predictor = Predictor(
            self.backend,
            ZoomSettings(target_size=(side, side)),
            self.profile.flip,
            weights.serving,
            self.caches.features,
            weights.identity,
        )
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
        mine = self.weights
        if (weights.sha256, weights.config, weights.int8) != (mine.sha256, mine.config, mine.int8):
            raise ConfigError(f"the weights {weights.name} are another network than {self.weights.name}")
        other = copy.copy(self)
        other.weights, other.profile = weights, profile
        other._connect(caches)
        return other

    def _build(self) -> Backend:
        settings = self.settings
        if self.runtime == "openvino":
            return self._openvino()
        network = within_memory(lambda: self.weights.build(copy=False).to(self.device))
        network.check_size(*[network.config.img_size] * 2)
        low = torch.bfloat16 if self.arithmetic == "bf16" else None
        tf32 = self.profile.low_precision and self.device.type == "cuda" and settings.precision != "fp32"
        precision = Precision(low, tf32)
        backend = TorchBackend(network, self.device, precision, settings.compile)
        return backend if settings.batch == 1 else BatchingBackend(backend, settings.batch)

    def _openvino(self) -> OpenVINOBackend:
        """OpenVINO; in int8, unless asked for, only with ranges that fit what this version made of the network."""
        threads, folder = torch.get_num_threads(), self.settings.cache_dir
        backend = OpenVINOBackend(self.weights, self.arithmetic, threads, folder)
        if self.arithmetic == "int8" and self.settings.precision == "auto":
            side = network_config(self.weights.config).img_size
            try:
                backend.prepare(1, side, side)
            except RangesError as error:
                log.warning("computing in fp32, not in int8: %s", error)
                self.arithmetic = "fp32"
                backend = OpenVINOBackend(self.weights, self.arithmetic, threads, folder)
        return backend

    @staticmethod
    def from_weights(
        path_or_name: str | Path,
        device: str | None = None,
        profile: str | Profile | None = None,
        caches: Caches | None = None,
        runtime: str | None = None,
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

        Returns:
            The engine. Its first click also pays for what is made lazily; see `warm_up`.

        Raises:
            WeightsError: See `icmformer.weights.load`.
            DeviceError: As for the engine.
            ConfigError: As for the engine.
        """
        settings = settings or Settings.from_environment()
        return Engine(load(path_or_name, settings), device, profile, caches, runtime, settings)

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

        Clicks are replayed one by one, as in the evaluation protocol: in their order, or, with `ordered=False`, in the
        order that an annotator would have had reason for, each kind in its own order. A positive click always gives a
        mask: where the network finds nothing, the likeliest part under it. Negative clicks alone, with nothing to take
        away from, give an empty one.

        Args:
            image: (H, W, 3) uint8 RGB, or a `LoadedImage`, which spares naming its content again.
            clicks: On the object (positive) and off it, in pixels of the image.
            box: A box around the object, or its four coordinates (x1, y1, x2, y2), in pixels.
            previous_mask: (H, W) bool, or float probabilities in [0, 1]: a mask to correct. One with nothing over 0.5
                counts as none; together with a box, what lies in the box is the first guess.
            ordered: Whether `clicks` are in the order in which they were made; False where a tool keeps positive and
                negative clicks apart.
            clean_up: What to tidy in the mask; the probabilities stay as they are.

        Returns:
            The mask with its probabilities, score, ROI and timings.

        Raises:
            ImageError: Not an RGB image.
            PromptError: Nothing to go by, or a prompt that does not fit the image.
            ConfigError: `clean_up` is not a CleanUp.
            DeviceMemoryError: A GPU without memory left for a pass.
        """
        if not isinstance(clean_up, CleanUp | None):
            raise ConfigError(f"clean_up must be a CleanUp, got {type(clean_up).__name__}")
        if not isinstance(ordered, bool | np.bool_):
            raise PromptError(f"clicks are ordered or not, True or False, got {type(ordered).__name__}")
        timings, serving = Timings(), self.weights.serving
        with timings.stage("total"):
            with timings.stage("hash"):
                loaded = image if isinstance(image, LoadedImage) else LoadedImage.from_array(image)
            height, width = loaded.pixels.shape[:2]
            given, box = as_clicks(clicks), as_box(box)
            start = None if previous_mask is None else checked_mask(previous_mask, height, width)
            with self._place(timings):
                prediction = self._predict(loaded, given, box, start, bool(ordered), timings)
                with timings.stage("resize"):
                    found = prediction.map
                    runs = found.over(serving.threshold)
                    sure = bool(runs)
                    if not sure and any(click.positive for click in given):
                        runs = best_part(found, given, height, width)
                if clean_up is not None:
                    with timings.stage("clean_up"):
                        runs = clean_up.tidied(runs, given)
                with timings.stage("score"):
                    score = expected_iou(prediction.patch, serving) if sure and runs else 0.0
        return MaskResult(runs, score, prediction.shown, dict(timings), found.full)

    @contextmanager
    def _place(self, timings: Timings) -> Iterator[None]:
        """A place at the network, in order of arrival.

        On a CPU there is one: work for other requests would take the cores that the network needs. On a GPU, and where
        requests share a pass, there are as many again as a pass takes: they are made ready meanwhile.
        """
        with ExitStack() as stack:
            with timings.stage("wait"):
                stack.enter_context(self._places.one())
            yield

    def prefetch(self, image: NDArray[np.uint8] | LoadedImage) -> None:
        """Encodes the whole image, which the first click on any of its objects will ask for.

        Args:
            image: (H, W, 3) uint8 RGB, or a `LoadedImage`.

        Raises:
            ImageError: Not an RGB image.
            DeviceMemoryError: A GPU without memory left for a pass.
        """
        loaded = image if isinstance(image, LoadedImage) else LoadedImage.from_array(image)
        self.predictor.prefetch(loaded)

    def warm_up(self) -> None:
        """Takes one step on a blank image, so that the first request does not pay for lazy initialisation.

        Says in the log where the feature cache is too small to be of use for this network.

        Raises:
            DeviceMemoryError: A GPU without memory left for a pass.
            ConfigError: Ranges for int8, where the settings ask for it, that do not fit the network (`RangesError`).
        """
        blank = LoadedImage.from_array(np.zeros((64, 64, 3), np.uint8))
        self.segment(blank, [Click(32, 32)])
        kept, cache = self.predictor.prefetch(blank).nbytes, self.caches.features
        if isinstance(cache, ByteLRU) and cache.capacity < _ENTRIES * kept:
            log.warning(
                "the feature cache holds %d of this network's images and ROIs, of %d MB each; set "
                "ICMFORMER_FEATURE_CACHE_MB to %d or more, or clicks on other objects wait for the image to be encoded",
                cache.capacity // kept,
                -(-kept >> 20) or 1,
                -(-_ENTRIES * kept >> 20),
            )
        memory.release()  # much of what loading and converting took

    def _predict(
        self,
        image: LoadedImage,
        clicks: tuple[Click, ...],
        box: Box | None,
        mask: FloatMap | None,
        ordered: bool,
        timings: Timings,
    ) -> Prediction:
        height, width = image.pixels.shape[:2]
        pixels = tuple(PixelClick(*c.pixel(height, width), c.positive) for c in clicks)
        if mask is None and box is None:
            if not clicks:
                raise PromptError("the prompt is empty: give at least one click, or a box")
            if not any(c.positive for c in clicks):
                return Prediction(np.zeros((1, 1), np.float32), (height, width), whole(height, width))
        elif box is None and not clicks:
            raise PromptError("a previous mask needs at least one click that corrects it")
        key = (self._identity, image.digest, _digest(mask))
        start = None if mask is None else Prediction.given(mask)
        replay = Replay(self.predictor, self.caches.states, key, image, timings, start)
        if box is not None:
            replay = replay.from_box(box, *self.profile.box(box, mask, height, width), pixels)
            if replay.start and not clicks:
                return replay.start
        return replay.ordered(pixels) if ordered else replay.unordered(pixels)


def expected_iou(patch: FloatMap, serving: ServingDefaults) -> float:
    """The IoU to expect of a mask if every probability, sharpened, is that of the pixel to be on the object.

    Args:
        patch: Probabilities of the ROI.
        serving: Its `score_sharpness` is a factor on the log-odds against its `threshold`: networks trained with the
            normalised focal loss are underconfident, and far from the object many small probabilities add up.

    Returns:
        Expected intersection over expected union of {p > threshold} and the object, in [0, 1].
    """
    inside = patch > serving.threshold
    known = np.clip(patch, 1e-6, 1 - 1e-6)
    odds = known / (1 - known) * ((1 - serving.threshold) / serving.threshold)
    sharpened = 1 - 1 / (1 + odds**serving.score_sharpness)
    union = float(inside.sum()) + float(sharpened[~inside].sum())
    return float(sharpened[inside].sum()) / union if union else 0.0


def _typed(given: T, kind: type[T], error: type[IcmformerError]) -> T:
    """An argument, which is seen to be of its kind."""
    if not isinstance(given, kind):
        raise error(f"expected {kind.__name__}, got {type(given).__name__}")
    return given


def _digest(mask: FloatMap | None) -> Hashable:
    return None if mask is None else hashlib.blake2b(np.ascontiguousarray(mask).data, digest_size=16).digest()
