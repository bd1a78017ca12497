"""Segmenters without a network, for `training.baselines`, which names them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.segmentation import random_walker
from tqdm import tqdm

from icmformer.inference.roi import ROI, PixelClick, whole
from icmformer.types import BoolMask, FloatMap, RGBImage

from .benchmarks import load_benchmark
from .noc import TARGET_IOU
from .object_results import ObjectLog
from .protocol import Predict, simulate
from .report import write_results

_SEED_RADIUS = 5  # pixels around a click that are certain, as the networks' disks
_FIRST_GUESS = 0.25  # of the image's shorter side: where the object is guessed to be, around its clicks
_WALKER_SIDE = 128  # pixels of the image's longer side that the random walker works at
_WALKER_BETA = 300.0
_THRESHOLD = 0.5  # their probabilities are not a network's


def grabcut(image: RGBImage) -> Predict:
    """GrabCut, started anew at each click: near positive clicks is probably the object, the rest probably not."""
    shape = image.shape[:2]
    bgr = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)

    def predict(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        near = _disks(shape, clicks, True, _FIRST_GUESS * min(shape))
        labels = np.where(near, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[_disks(shape, clicks, True, _SEED_RADIUS)] = cv2.GC_FGD
        labels[_disks(shape, clicks, False, _SEED_RADIUS)] = cv2.GC_BGD
        if not near.any() or near.all():
            return near.astype(np.float32), whole(*shape)
        cv2.setRNGSeed(0)  # its colour models start from random clusters
        unused = 0, 0, 0, 0  # a rectangle, in the other mode
        cv2.grabCut(bgr, labels, unused, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
        return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32), whole(*shape)

    return predict


def walker(image: RGBImage) -> Predict:
    """The random walker on the image made smaller; the image's edge is background where no click says otherwise."""
    shape = image.shape[:2]
    scale = min(1.0, _WALKER_SIDE / max(shape))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = small.shape[:2]

    def predict(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        seeds = np.zeros((height, width), np.int32)
        seeds[[0, -1]] = 2
        seeds[:, [0, -1]] = 2
        scaled = [
            PixelClick(min(int(c.row * scale), height - 1), min(int(c.column * scale), width - 1), c.positive)
            for c in clicks
        ]
        radius = _SEED_RADIUS * scale
        seeds[_disks((height, width), scaled, False, radius)] = 2
        seeds[_disks((height, width), scaled, True, radius)] = 1
        if not (seeds == 1).any():
            return np.zeros(shape, np.float32), whole(*shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that probabilities overshoot by the solver's tolerance
            odds = random_walker(
                small, seeds, _WALKER_BETA, mode="cg_j", tol=1e-3, channel_axis=2, return_full_prob=True
            )
        inside = cv2.resize(np.asarray(odds[0], np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(inside, np.float32), whole(*shape)

    return predict


def _disks(shape: tuple[int, int], clicks: Sequence[PixelClick], positive: bool, radius: float) -> BoolMask:
    drawn = np.zeros(shape, np.uint8)
    for click in clicks:
        if click.positive == positive:
            cv2.circle(drawn, (click.column, click.row), round(radius), 1, -1)
    return drawn.astype(bool)


METHODS: Mapping[str, Callable[[RGBImage], Predict]] = {"grabcut": grabcut, "random-walker": walker}


def evaluate_baseline(
    method: str, dataset: str, root: Path, out: Path, limit: int | None = None, all_clicks: bool = False
) -> dict[str, Any]:
    """As `training.evaluation.runner.evaluate`, with a method of `METHODS` in place of a network.

    Raises:
        ConfigError: `out` holds another run, or there is not one object.
    """
    target = None if all_clicks else TARGET_IOU
    header = {"method": method, "dataset": dataset, "root": str(root.resolve()), "limit": limit, "target_iou": target}
    log = ObjectLog(out, header)
    objects = load_benchmark(dataset, root, limit)
    for item in tqdm(objects, unit="object", desc=f"{method}, {dataset}"):
        if item.name in log.results:
            continue
        image, truth = item.load()
        session = simulate(METHODS[method](image.pixels), truth, _THRESHOLD, target)
        log.add({"name": item.name, "ious": session.ious, "seconds": session.seconds})
    ordered = [log.results[item.name] for item in objects]
    facts = {"dataset": dataset, "weights": {"name": method}, "profile": "no network", "target_iou": target}
    return write_results(ordered, facts, out)
