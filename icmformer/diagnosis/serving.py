"""What clicks are served with: settings, weights, device, room, and a click itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from icmformer.diagnosis import installation, machine
from icmformer.diagnosis.checks import Check, Fact, Outcome, failed, ok, warning
from icmformer.serving.click_log import can_append
from icmformer.settings import Settings

if TYPE_CHECKING:
    from icmformer.weights import Weights

_MB = 1 << 20
_GOOD_OVERLAP = 0.5


class Serving:
    """The checks, and what they found on the way: weights are loaded once.

    Args:
        environment: The environment's variables.
        weights: To be used in place of the settings'.
        device: To be used in place of the settings'.
    """

    def __init__(self, environment: Mapping[str, str], weights: str | None = None, device: str | None = None) -> None:
        self._environment, self._given = environment, {"weights": weights, "device": device}
        self._weights: Weights | None = None
        self._device = "cpu"

    def checks(self) -> list[Check]:
        """The checks, in the order that they build on each other."""
        settings = ("settings",)
        return [
            Check(
                "settings",
                self._check_settings,
                ("torch",),
                advice="mend or unset that variable; docs/settings.md has them all",
            ),
            Check("cache folder", lambda: machine.cache_folder(self.settings.cache_dir), settings),
            Check("device", self._check_device, settings),
            Check("gpu", lambda: machine.gpu(self._device), ("device",)),
            Check("openvino", lambda: installation.openvino(self.settings.runtime, self._device), ("device",)),
            Check("weights", self._check_weights, ("packages", *settings)),
            Check("memory", self._check_memory, settings),
            Check(
                "segment",
                self._check_segment,
                ("weights", "device", "gpu", "openvino", "opencv"),
                advice="does it work with --device cpu, with ICMFORMER_RUNTIME=torch, with --weights starter?",
            ),
        ]

    @cached_property
    def settings(self) -> Settings:
        """From the environment, with what the command line says in place."""
        given = {name: value for name, value in self._given.items() if value}
        return dataclasses.replace(Settings.from_environment(self._environment), **given)  # type: ignore[arg-type]

    def _check_settings(self) -> Outcome:
        from icmformer.inference.profiles import RUNTIMES, find_profile

        settings = self.settings
        find_profile(settings.profile)
        if settings.runtime not in RUNTIMES:
            return failed(
                f"ICMFORMER_RUNTIME is {settings.runtime!r}", f"set it to {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}"
            )
        if settings.click_log is not None and not can_append(settings.click_log):
            return failed(
                f"ICMFORMER_CLICK_LOG: {settings.click_log} cannot be written, so that no click would be counted",
                "name a file in a folder that the server may write to",
            )
        values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
        plain = {n: v if isinstance(v, str | int) else _written(v) for n, v in values.items()}
        return ok(", ".join(f"{name}={value}" for name, value in plain.items()), **plain)

    def _check_device(self) -> Outcome:
        outcome = machine.device(self.settings.device)
        self._device = str(outcome.facts.get("device", "cpu"))
        return outcome

    def _check_weights(self) -> Outcome:
        from icmformer.errors import WeightsError
        from icmformer.weights import RANDOM_PREFIX, load, locate

        name = self.settings.weights
        untrained = name.startswith(RANDOM_PREFIX)
        if not untrained:
            try:
                locate(name)
            except WeightsError as error:
                return failed(
                    str(error), "`icmformer weights info` lists what there is; set ICMFORMER_WEIGHTS (--weights) to one"
                )
        try:
            found = self._weights = load(name)
        except WeightsError as error:
            return failed(str(error), f"copy or fetch these weights again, then: icmformer weights verify {name}")
        text = f"{found.name}, sha256 {found.sha256[:12]}, {found.path or 'from a seed'}"
        facts: dict[str, Fact] = {"name": found.name, "sha256": found.sha256}
        if untrained:
            return warning(
                f"{found.name} is untrained: its masks mean nothing", "for work set ICMFORMER_WEIGHTS=starter", **facts
            )
        if found.path is not None and found.path.is_file():
            return ok(f"{text}; a file without SHA256SUMS: its values are sound, their origin is unproven", **facts)
        return ok(f"{text}, as its SHA256SUMS say", **facts)

    def _check_memory(self) -> Outcome:
        weights, settings = self._weights, self.settings
        values = () if weights is None else weights.state_dict.values()
        caches = settings.image_cache_mb + settings.feature_cache_mb + settings.state_cache_mb
        return machine.memory(sum(v.numel() * v.element_size() for v in values), caches * _MB)

    def _check_segment(self) -> Outcome:
        import numpy as np

        from icmformer.inference.engine import Engine
        from icmformer.types import Click

        assert self._weights is not None
        settings = self.settings
        engine = Engine(self._weights, self._device, settings.profile, None, settings.runtime, settings)
        rows, columns = np.mgrid[:240, :320]
        disk = (rows - 120) ** 2 + (columns - 160) ** 2 < 60**2
        image = np.where(disk[..., None], np.array((200, 60, 50)), np.array((60, 120, 70))).astype(np.uint8)
        engine.segment(image, [Click(30, 30)])  # lazy initialisation is not part of the time
        result = engine.segment(image, [Click(160, 120)])
        overlap = float((result.mask & disk).sum() / (result.mask | disk).sum())
        milliseconds = result.timings["total"]
        told = f"{engine.weights.name}, {settings.profile}, {engine.runtime}"
        if engine.runtime == "openvino" and (settings.batch > 1 or settings.compile):
            told += " (ICMFORMER_BATCH and ICMFORMER_COMPILE have no effect with it)"
        text = f"{told}: a disk found with IoU {overlap:.2f} in {milliseconds:.0f} ms"
        facts: dict[str, Fact] = {"iou": round(overlap, 3), "ms": round(milliseconds, 1), "runtime": engine.runtime}
        trained = self._weights.path is not None
        if trained and overlap < _GOOD_OVERLAP:
            return warning(text, "these weights miss what is easy: are they trained? try --weights starter", **facts)
        return ok(text, **facts)


def _written(value: object) -> str:
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value)
