"""The notebook runs as it is in git, and shows what it says."""

import importlib.util
import re
import resource

import pytest

from icmformer import weights
from tests.conftest import ROOT

pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install '.[docs]'")
import nbformat

SPEC = importlib.util.spec_from_file_location("run_notebook", ROOT / "docs/notebook/run.py")
run = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(run)


def printed(notebook):
    return "\n".join(
        output["text"] for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )


def pictures(notebook):
    return [
        output["metadata"]["image/jpeg"]["alt"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/jpeg" in output.get("data", {})
    ]


def figures(notebook):
    """What it measured: the IoU after a click with known mask, NoC before and after, IoU before and after."""
    text = printed(notebook)
    iou = float(re.search(r"IoU with the known mask (\d\.\d\d)", text)[1])
    noc = [float(found) for found in re.findall(r"^ *90% +(\d+\.\d\d)", text, re.M)]
    both = [float(found) for found in re.search(r"one click: (\d\.\d\d) before, (\d\.\d\d) with", text).groups()]
    return iou, noc, both


def check(notebook):
    iou, (before, after), (old, new) = figures(notebook)
    assert iou == old > 0.6
    assert after < before - 2
    assert new > old
    assert "10 objects, starter, fast" in printed(notebook)
    assert "NOT promoted" in printed(notebook)
    assert len(pictures(notebook)) == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_clicks_measures_and_fine_tunes(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    made = run.executed(tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    check(made)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 240, "two minutes on two cores"
    candidate = weights.load(tmp_path / "first_steps" / "ours" / "candidate")
    assert candidate.sha256 != weights.load("starter").sha256
    assert candidate.about["fine_tuning"]["samples"] == 120
    assert len(list((tmp_path / "first_steps" / "horses" / "masks").iterdir())) == 10
    kept = nbformat.read(run.NOTEBOOK, as_version=4)
    assert [cell.source for cell in kept.cells] == [cell.source for cell in made.cells]
    assert figures(kept)[0] == pytest.approx(figures(made)[0], abs=0.05)


def test_what_it_printed_is_kept_without_traces_of_a_machine():
    kept = nbformat.read(run.NOTEBOOK, as_version=4)
    nbformat.validate(kept)
    check(kept)
    assert not re.search(r"/(home|root|tmp|Users)/|Traceback", run.NOTEBOOK.read_text())
    assert all(cell.execution_count for cell in kept.cells if cell.cell_type == "code")
    assert run.NOTEBOOK.stat().st_size < 300_000
