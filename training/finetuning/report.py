"""The report of a fine-tuning run: one HTML file that holds its pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from icmformer import Engine
from icmformer.errors import WeightsError
from icmformer.images.masks import overlay
from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask, RGBImage

from ..evaluation.benchmarks import EvalObject, load_benchmark
from ..evaluation.protocol import Stepwise, pixel_middles, simulate
from .gate import Comparison, Results
from .prepared import READING, Prepared
from .settings import FinetuneSettings
from .split import Split

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:left;border-bottom:1px solid #ddd}
.yes{color:#087f23}.no{color:#b3261e}img{max-width:100%}figure{margin:1em 0}"""
_SHOWN = 4
_FIGURES: tuple[tuple[str, Callable[[Results], float], str, bool], ...] = (
    ("clicks to 80% IoU", lambda r: r["noc"]["80"], "{:.2f}", True),
    ("clicks to 85% IoU", lambda r: r["noc"]["85"], "{:.2f}", True),
    ("clicks to 90% IoU", lambda r: r["noc"]["90"], "{:.2f}", True),
    ("objects never at 90%", lambda r: r["never"]["90"], "{:d}", True),
    ("mean IoU after one click", lambda r: r["miou_at_1"], "{:.3f}", False),
    ("mean IoU after three clicks", lambda r: r["miou"][2], "{:.3f}", False),
)
"""Name, figure, how it is written, and whether less is better."""


def write_report(
    settings: FinetuneSettings,
    facts: Mapping[str, str],
    data: Prepared,
    comparison: Comparison,
    before: Results,
    after: Results,
    clicks: Mapping[str, Mapping[str, int]],
    made: Path,
    switch: str = "",
) -> Path:
    """Writes report.html into the run's folder.

    Args:
        settings: Of the run.
        facts: What was done.
        data: What was read.
        comparison: The verdict.
        before: Results of the weights that the run began with, on the held-out part.
        after: Those of the new ones.
        clicks: To 90% IoU by object, `before` and `after`.
        made: The new ones' folder.
        switch: What became of them in a store of versions.
    """
    old, new = clicks["before"], clicks["after"]
    gains = sorted((old[name] - new[name], name) for name in old.keys() & new.keys())  # the largest loss first
    better, worse = sum(g > 0 for g, _ in gains), sum(g < 0 for g, _ in gains)
    parts = [
        "<!doctype html><meta charset=utf-8><title>Fine-tuning report</title>",
        f"<style>{_STYLE}</style><h1>Fine-tuning report</h1>",
        _verdict(comparison, made),
        *([f"<p>{html.escape(switch)}</p>"] if switch else []),
        _figures(before, after),
        f"<p>Of {len(gains)} objects {better} need fewer clicks than before, {worse} more, the others "
        "as many. None of their photos was trained on, or chose anything.</p>",
        f"<h2>Curves</h2><figure>{_embedded(_curves(before, after), 'PNG')}</figure>",
        "<h2>What was done</h2><table>",
        *[f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items()],
        "</table>",
        *_reading(settings, data),
        *_pictures(settings, data.split, gains, made),
    ]
    path = settings.out / "report.html"
    path.write_text("\n".join(parts), encoding="utf-8", errors="backslashreplace")
    return path


def _verdict(comparison: Comparison, made: Path) -> str:
    """Whether the new weights were taken, and on what evidence."""
    if comparison.promotes:
        told = (
            '<p class="yes"><b>Promoted.</b> The new weights need fewer clicks; they are in '
            f"<code>{html.escape(str(made))}</code>, a path that <code>--weights</code> and "
            "<code>ICMFORMER_WEIGHTS</code> take.</p>"
        )
    else:
        more = "need more clicks" if comparison.verdict == "more" else "are not shown to need fewer clicks"
        told = f'<p class="no"><b>Not promoted.</b> The new weights {more}; the old ones stay in use.</p>'
    advice = f"<p>{html.escape(comparison.reason)}</p>" if comparison.reason else ""
    return f"{told}<p>After less before, to 90% IoU: {html.escape(comparison.told)}.</p>{advice}"


def _reading(settings: FinetuneSettings, data: Prepared) -> list[str]:
    """What was skipped and decided when the export was read."""
    if not data.told:
        return []
    lines = [f"<li>{html.escape(line)}</li>" for line in data.told]
    return [
        "<h2>What was read</h2><ul>",
        *lines,
        f"</ul><p>All of it is in <code>{html.escape(str(settings.data / READING))}</code>.</p>",
    ]


def _figures(before: Results, after: Results) -> str:
    lines = ["<table><tr><th></th><th>before</th><th>after</th><th>change</th></tr>"]
    for name, figure, form, less in _FIGURES:
        old, new = figure(before), figure(after)
        good = new < old if less else new > old
        change = f"{100 * (new / old - 1):+.0f}%" if old else ""
        tone = "" if new == old else f' class="{"yes" if good else "no"}"'
        lines.append(
            f"<tr><th>{name}</th><td>{form.format(old)}</td><td>{form.format(new)}</td><td{tone}>{change}</td></tr>"
        )
    return "\n".join([*lines, "</table>"])


def _curves(before: Results, after: Results) -> RGBImage:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, results, style in (("before", before, "--"), ("after", after, "-")):
        axes.plot(range(1, len(results["miou"]) + 1), results["miou"], style, marker="o", markersize=3, label=name)
    axes.set(xlabel="clicks", ylabel="mean IoU", xticks=range(1, 21), ylim=(min(0.5, before["miou"][0]), 1))
    axes.grid(alpha=0.3)
    axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    plt.close(figure)
    return np.asarray(Image.open(out).convert("RGB"))


def _pictures(settings: FinetuneSettings, split: Split, gains: Sequence[tuple[int, str]], new: Path) -> list[str]:
    """The objects that gained and lost most: both masks after the first click and after the third."""
    best, worst = [g for g in gains[::-1][:_SHOWN] if g[0] > 0], [g for g in gains[:_SHOWN] if g[0] < 0]
    objects = {item.name: item for item in load_benchmark("label-maps", settings.data / "held_out")}
    try:
        engines = [Engine.from_weights(source, "cpu", "fast") for source in (settings.weights, new)]
    except WeightsError:
        return []
    parts = []
    for title, chosen in (("Gained most", best), ("Lost most", worst)):
        if chosen:
            parts.append(f"<h2>{title}</h2>")
        for gain, name in chosen:
            strip = np.hstack([_strip(objects[name], engine) for engine in engines])
            change = f"{abs(gain)} click{'s' if abs(gain) > 1 else ''} {'fewer' if gain > 0 else 'more'}"
            photo = html.escape(split.of_object(name).identity)
            told = f"{photo}: {change}. Before, then after, each with one click and with three"
            parts.append(f"<figure>{_embedded(strip, 'JPEG')}<figcaption>{told}</figcaption></figure>")
    return parts


def _strip(item: EvalObject, engine: Engine, side: int = 220) -> RGBImage:
    image, truth = item.load()
    pictures: list[RGBImage] = []

    def draw(clicks: Sequence[PixelClick], mask: BoolMask, iou: float) -> None:
        picture = overlay(image.pixels, mask, pixel_middles(clicks))
        pictures.append(_framed(picture, f"{len(clicks)}: {iou:.2f}", side))

    simulate(Stepwise(engine.predictor, image), truth, engine.weights.serving.threshold, None, 3, observe=draw)
    return np.hstack([pictures[0], pictures[-1]])


def _framed(picture: RGBImage, text: str, side: int) -> RGBImage:
    scale = side / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    frame = np.full((side, side, 3), 255, np.uint8)
    frame[: small.shape[0], : small.shape[1]] = small[:side, :side]
    for colour, thickness in (((255, 255, 255), 3), ((0, 0, 0), 1)):
        cv2.putText(frame, text, (5, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, thickness, cv2.LINE_AA)
    return frame


def _embedded(picture: RGBImage, form: str) -> str:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, form, quality=85)
    return f'<img alt="" src="data:image/{form.lower()};base64,{base64.b64encode(out.getvalue()).decode()}">'
