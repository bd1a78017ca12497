"""What a worker tells of its requests: metrics, and the click log where one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icmformer.serving.click_log import ClickLog
from icmformer.serving.metrics import Metrics
from serverless.errors import INTERNAL, STATUS
from serverless.interactor import Interactor

_ROUTE = "/"


class Watch:
    """Counts a worker's requests.

    Args:
        interactor: The worker's.
        click_log: Where clicks are written down.
    """

    def __init__(self, interactor: Interactor, click_log: ClickLog) -> None:
        self._model, self._click_log = interactor.model, click_log
        self._metrics = Metrics(interactor.engine, interactor.caches, [*(kind for *_, kind in STATUS), INTERNAL])

    def answered(self, facts: Mapping[str, Any], timings: Mapping[str, float], seconds: float) -> None:
        """Counts a request with an answer.

        Args:
            facts: See `Interactor.answer`.
            timings: Milliseconds by stage.
            seconds: Of all of it.
        """
        self._metrics.answered(_ROUTE, 200, seconds)
        self._metrics.prediction(facts["result"], timings, facts["positive"] + facts["negative"] + facts["box"])
        if facts["result"] == "nothing clicked":
            return
        self._click_log.write(
            "click",
            "cvat",
            request=facts["request"],
            result=facts["result"],
            positive=facts["positive"],
            negative=facts["negative"],
            box=facts["box"],
            area=facts["area"],
            score=facts["score"],
            milliseconds=round(1000 * seconds, 1),
            model=self._model,
        )

    def refused(self, status: int, kind: str, seconds: float) -> None:
        """Counts a request without one."""
        self._metrics.answered(_ROUTE, status, seconds)
        self._metrics.refused(kind)

    def text(self) -> str:
        """The metrics in Prometheus's text form."""
        return self._metrics.text().decode()
