"""Number of clicks on held-out images, while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icmformer.errors import IcmformerError, UnreadableImageError
from icmformer.inference.backends.base import CallableBackend
from icmformer.inference.predictor import Predictor
from icmformer.inference.roi import ZoomSettings
from icmformer.models import ClickNetwork
from icmformer.weights import THRESHOLD

from ..evaluation.benchmarks import EvalObject, readable_objects, unreadable_object
from ..evaluation.noc import mean_iou_at
from ..evaluation.protocol import Stepwise, simulate
from ..evaluation.report import summarise
from .processes import Processes


class Validation:
    """Runs the evaluation protocol on the objects of a shard, without the mirror pass.

    Attributes:
        shard: The shard.
        unreadable: Its images that could not be read so far, by all processes; they are left out.

    Raises:
        ConfigError: No such shard, or not one object in it.
    """

    def __init__(self, shard: Path, limit: int, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self.shard = shard
        self._objects: Sequence[EvalObject]
        self._objects, self.unreadable = readable_objects(shard, limit)

    def __call__(self, network: ClickNetwork, size: int, processes: Processes) -> dict[str, float] | None:
        """NoC at 80, 85 and 90%, the share never at 90%, mean IoU after one and five clicks; the same everywhere.

        Returns:
            The figures; None where not one image can be read any more.
        """
        predictor = Predictor(CallableBackend(network), ZoomSettings(target_size=(size, size)))
        rows: list[dict[str, Any]] = []
        unreadable: list[UnreadableImageError] = []
        for item in self._objects[processes.rank :: processes.world]:
            try:
                image, truth = item.load()
            except IcmformerError as error:
                unreadable.append(unreadable_object(item, error))
                continue
            if not (truth == 1).any():
                continue
            session = simulate(Stepwise(predictor, image), truth, self._threshold)
            rows.append({"ious": session.ious, "seconds": session.seconds})
        met = processes.gather((rows, unreadable))
        found = {error.image: error for error in (*self.unreadable, *(e for _, errors in met for e in errors))}
        self.unreadable = list(found.values())
        every = [row for share, _ in met for row in share]
        if not every:
            return None
        figures = summarise(every, 0.9)
        return {
            **{f"noc{target}": figures["noc"][target] for target in ("80", "85", "90")},
            "never90": figures["never"]["90"] / figures["objects"],
            "miou1": figures["miou_at_1"],
            "miou5": mean_iou_at([row["ious"] for row in every], 5),
        }
