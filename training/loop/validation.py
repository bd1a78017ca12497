"""Number of clicks on held-out images, while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icmformer.inference.backends.base import CallableBackend
from icmformer.inference.predictor import Predictor
from icmformer.inference.roi import ZoomSettings
from icmformer.models import ClickNetwork
from icmformer.weights import THRESHOLD
from training.evaluation.benchmarks import EvalObject, load_benchmark
from training.evaluation.noc import mean_iou_at
from training.evaluation.protocol import Stepwise, simulate
from training.evaluation.report import summarise
from training.loop.processes import Processes


class Validation:
    """Runs the evaluation protocol on the objects of a shard, without the mirror pass.

    Raises:
        ConfigError: No such shard.
    """

    def __init__(self, shard: Path, limit: int, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._objects: Sequence[EvalObject] = load_benchmark("shard", shard, limit)

    def __call__(self, network: ClickNetwork, size: int, processes: Processes) -> dict[str, float]:
        """NoC at 80, 85 and 90%, the share never at 90%, mean IoU after one and five clicks; the same everywhere."""
        predictor = Predictor(CallableBackend(network), ZoomSettings(target_size=(size, size)))
        rows: list[dict[str, Any]] = []
        for item in self._objects[processes.rank :: processes.world]:
            image, truth = item.load()
            if not (truth == 1).any():
                continue
            session = simulate(Stepwise(predictor, image), truth, self._threshold)
            rows.append({"ious": session.ious, "seconds": session.seconds})
        every = [row for share in processes.gather(rows) for row in share]
        figures = summarise(every, 0.9)
        return {
            **{f"noc{target}": figures["noc"][target] for target in ("80", "85", "90")},
            "never90": figures["never"]["90"] / figures["objects"],
            "miou1": figures["miou_at_1"],
            "miou5": mean_iou_at([row["ious"] for row in every], 5),
        }
