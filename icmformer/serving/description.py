"""A mask's facts and outlines as JSON: what `icmformer segment --json` prints, and `icmformer try` saves."""

from __future__ import annotations

from typing import Any

from icmformer.geometry import mask_to_polygons
from icmformer.types import MaskResult


def facts(result: MaskResult) -> dict[str, Any]:
    """Score, area in pixels, ROI (row min, row max, column min, column max) and milliseconds by stage."""
    return {
        "score": round(result.score, 4),
        "area": result.runs.area,
        "roi": list(result.roi),
        "timings_ms": {name: round(value, 2) for name, value in result.timings.items()},
    }


def description(result: MaskResult, max_points: int | None = None) -> dict[str, Any]:
    """The facts, and the mask's polygons with holes, points as [x, y] in pixels.

    Args:
        result: The engine's.
        max_points: Most points of all polygons together; None for exact outlines.

    Raises:
        ConfigError: Fewer than 4 points.
    """
    polygons = [
        {"exterior": p.exterior.round(2).tolist(), "holes": [h.round(2).tolist() for h in p.holes]}
        for p in mask_to_polygons(result.runs, max_points)
    ]
    return {**facts(result), "polygons": polygons}
