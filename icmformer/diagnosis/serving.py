"""What clicks are served with: settings, weights, device, room, and a click itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from icmformer.diagnosis import installation, machine
from icmformer.diagnosis.report import Fact, Finding, Report, failed, ok, warning
from icmformer.serving.click_log import can_append
from icmformer.settings import Settings

if TYPE_CHECKING:
    from icmformer.weights import Weights

PREFIX = "ICMFORMER_"
_MB = 1 << 20
_GOOD_OVERLAP = 0.5


def check(report: Report, environment: Mapping[str, str], weights: str | None, device: str | None) -> None:
    """Checks what this machine would serve clicks with; weights and device given here win over the settings'."""
    served = _Served(environment, weights, device)
    report.check(
        "settings",
        served.read_settings,
        ["packages", "torch"],
        "correct or unset that variable; docs/settings.md has them all",
    )
    report.check("cache folder", lambda: machine.cache_folder(served.settings.cache_dir), ["settings"])
    report.check("device", served.find_device, ["settings"])
    report.check("gpu", lambda: machine.gpu(served.device), ["device"])
    report.check("openvino", lambda: installation.openvino(served.settings.runtime, served.device), ["device"])
    report.check("weights", served.load_weights, ["settings"])
    report.check("memory", served.compare_memory, ["settings"])
    report.check(
        "segment",
        served.segment,
        ["weights", "device", "gpu", "openvino", "opencv"],
        "does it work with --device cpu, with ICMFORMER_RUNTIME=torch, with ICMFORMER_PRECISION=auto, with --weights "
        "starter?",
    )


def unknown_variables(environment: Mapping[str, str], known: Iterable[str]) -> Finding:
    """Whether each variable of our prefix is a setting: a misspelt one is silently the default.

    Args:
        environment: The environment's variables.
        known: The settings there are.
    """
    known = {name for name in known if name.startswith(PREFIX)}
    strange = sorted(name for name in environment if name.upper().startswith(PREFIX) and name not in known)
    if not strange:
        return ok(f"no {PREFIX} variable but settings")
    bare = sorted(name.removeprefix(PREFIX) for name in known)
    close = {name: get_close_matches(name.upper().removeprefix(PREFIX), bare, 1, 0.7) for name in strange}
    told = ", ".join(f"{name} (meant {PREFIX}{close[name][0]}?)" if close[name] else name for name in strange)
    return warning(
        f"set, and no setting: {told}",
        "correct the name, or unset it; docs/settings.md, label_studio.md and cvat.md have them all",
    )


class _Served:
    """What the checks find on the way: each is read, found or loaded once."""

    def __init__(self, environment: Mapping[str, str], weights: str | None, device: str | None) -> None:
        self._environment, self._given = environment, {"weights": weights, "device": device}
        self._weights: Weights | None = None
        self.settings = Settings()
        self.device = "cpu"

    def read_settings(self) -> Finding:
        """From the environment, with what the command line says in place."""
        from icmformer.inference.profiles import RUNTIMES, find_profile

        given = {name: value for name, value in self._given.items() if value}
        settings = self.settings = replace(Settings.from_environment(self._environment), **given)  # type: ignore[arg-type]
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
        values = {n: ":".join(map(str, v)) if isinstance(v, tuple) else v for n, v in asdict(settings).items()}
        plain: dict[str, Fact] = {n: v if isinstance(v, str | int) else str(v) for n, v in values.items()}
        return ok(", ".join(f"{name}={value}" for name, value in plain.items()), **plain)

    def find_device(self) -> Finding:
        """The device, which is where the GPU and OpenVINO are looked at then."""
        finding = machine.device(self.settings.device)
        self.device = str(finding.facts.get("device", "cpu"))
        return finding

    def load_weights(self) -> Finding:
        from icmformer.errors import WeightsError
        from icmformer.weights import RANDOM_PREFIX, load, locate

        name = self.settings.weights
        untrained = name.startswith(RANDOM_PREFIX)
        advice = "`icmformer weights info` lists what there is; set ICMFORMER_WEIGHTS (--weights) to one"
        try:
            if not untrained:
                locate(name, self.settings)
            advice = f"copy or fetch these weights again, then: icmformer weights verify {name}"
            found = self._weights = load(name, self.settings)
        except WeightsError as error:
            return failed(str(error), advice)
        facts: dict[str, Fact] = {"name": found.name, "sha256": found.sha256}
        if untrained:
            return warning(
                f"{found.name} is untrained: its masks mean nothing", "for work set ICMFORMER_WEIGHTS=starter", **facts
            )
        text = f"{found.name}, sha256 {found.sha256[:12]}, {found.path}"
        if found.path is not None and found.path.is_file():
            return ok(f"{text}; a file without SHA256SUMS: its values are sound, their origin is unproven", **facts)
        return ok(f"{text}, as its SHA256SUMS say", **facts)

    def compare_memory(self) -> Finding:
        """What is free, against what a server takes with these weights, or as far as is known without them."""
        values = () if self._weights is None else self._weights.state_dict.values()
        caches = self.settings.image_cache_mb + self.settings.feature_cache_mb + self.settings.state_cache_mb
        return machine.memory(sum(v.numel() * v.element_size() for v in values), caches * _MB)

    def segment(self) -> Finding:
        """A click on a disk that was drawn: is its mask that disk?"""
        import numpy as np

        from icmformer.inference.engine import Engine
        from icmformer.types import Click

        assert self._weights is not None
        settings = self.settings
        engine = Engine(self._weights, self.device, settings.profile, None, settings.runtime, settings)
        rows, columns = np.mgrid[:240, :320]
        disk = (rows - 120) ** 2 + (columns - 160) ** 2 < 60**2
        image = np.where(disk[..., None], np.array((200, 60, 50)), np.array((60, 120, 70))).astype(np.uint8)
        engine.segment(image, [Click(30, 30)])  # lazy initialisation is not part of the time
        result = engine.segment(image, [Click(160, 120)])
        overlap = float((result.mask & disk).sum() / (result.mask | disk).sum())
        milliseconds = result.timings["total"]
        told = f"{engine.weights.name}, {settings.profile} in {engine.arithmetic}, {engine.runtime}"
        if engine.runtime == "openvino" and (settings.batch > 1 or settings.compile):
            told += " (ICMFORMER_BATCH and ICMFORMER_COMPILE have no effect with it)"
        text = f"{told}: a disk found with IoU {overlap:.2f} in {milliseconds:.0f} ms"
        facts: dict[str, Fact] = {"iou": round(overlap, 3), "ms": round(milliseconds, 1), "runtime": engine.runtime}
        trained = self._weights.path is not None
        if trained and overlap < _GOOD_OVERLAP:
            return warning(text, "these weights miss an easy object: are they trained? try --weights starter", **facts)
        return ok(text, **facts)
