"""The results page: every benchmark that is there, beside the published figures."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from icmformer.images.masks import write_image, write_mask
from training.evaluation.standard_benchmarks import PUBLISHED
from training.results import main


def disk(n):
    rows, columns = np.mgrid[:120, :160]
    mask = (rows - 55 - 5 * n) ** 2 + (columns - 80) ** 2 < (25 + 4 * n) ** 2
    return np.repeat(np.where(mask, 220, 60).astype(np.uint8)[..., None], 3, axis=2), mask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """All six layouts, two objects each."""
    root = tmp_path_factory.mktemp("benchmarks")
    layouts = {
        "GrabCut": ("data_GT", "boundary_GT"),
        "Berkeley": ("images", "masks"),
        "DAVIS": ("img", "gt"),
        "COCO_MVal": ("img", "gt"),
        "PascalVOC": ("JPEGImages", "SegmentationObject"),
        "SBD": ("img", "inst"),
    }
    for name, (images, masks) in layouts.items():
        for folder in (images, masks):
            (root / name / folder).mkdir(parents=True)
        for n in range(2):
            image, mask = disk(n)
            write_image(root / name / images / f"p{n}.jpg", image)
            if name == "SBD":
                savemat(root / name / masks / f"p{n}.mat", {"GTinst": {"Segmentation": mask.astype(np.uint8)}})
            elif name == "PascalVOC":
                Image.fromarray(mask.astype(np.uint8)).save(root / name / masks / f"p{n}.png")
            else:
                write_mask(root / name / masks / f"p{n}.png", mask)
    (root / "SBD" / "val.txt").write_text("p0\np1\n")
    (root / "PascalVOC" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "PascalVOC" / "ImageSets" / "Segmentation" / "val.txt").write_text("p0\np1\n")
    return root


def test_all_six_are_evaluated_and_set_beside_what_was_published(miniature, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--weights", miniature, "--data", str(data), "--out", str(out), "--profile", "fast"]) == 0
    text = (out / "results.md").read_text()
    header = next(line for line in text.splitlines() if line.startswith("| | trained on"))
    names = ["GrabCut", "Berkeley", "DAVIS", "SBD", "PascalVOC", "COCO_MVal"]
    assert [cell.strip() for cell in header.strip("|").split("|")][2:] == names
    for name in names:
        results = json.loads((out / name / "results.json").read_text())
        assert results["objects"] == 2
        assert f"**{results['noc']['85']:.2f} / {results['noc']['90']:.2f}**" in text
    assert text.count("1.42 / 1.52 | 1.40 / 1.86 | 3.40 / 5.06 | 3.29 / 5.30 | - / - | - / -") == 1  # iCMFormer's
    assert sum(other.model in text for other in PUBLISHED) == len(PUBLISHED)
    assert "not to be compared: GrabCut 2 of 50, Berkeley 2 of 100" in text


def test_a_stopped_run_goes_on_and_a_part_says_so(miniature, data, tmp_path, capsys):
    command = ["--weights", miniature, "--data", str(data), "--out", str(tmp_path), "--profile", "fast", "--limit", "1"]
    assert main([*command, "--sets", "DAVIS"]) == 0
    told = capsys.readouterr().out
    assert "not there: GrabCut, Berkeley, SBD, PascalVOC, COCO_MVal" in told
    played = (tmp_path / "DAVIS" / "objects.jsonl").read_text()
    assert main([*command, "--sets", "DAVIS", "Berkeley"]) == 0
    assert (tmp_path / "DAVIS" / "objects.jsonl").read_text() == played
    assert "not to be compared" in (tmp_path / "results.md").read_text()


def test_a_set_that_cannot_be_read_does_not_keep_the_others(miniature, data, tmp_path, capsys):
    (tmp_path / "data" / "DAVIS").mkdir(parents=True)
    (tmp_path / "data" / "Berkeley").symlink_to(data / "Berkeley")
    (tmp_path / "data" / "COCO_MVal").symlink_to(data / "COCO_MVal")
    command = [
        "--weights",
        miniature,
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
        "--profile",
        "fast",
    ]
    assert main(command) == 2
    assert "DAVIS could not be evaluated" in capsys.readouterr().err
    assert "| Berkeley | 2 |" in (tmp_path / "out" / "results.md").read_text()
    assert "| COCO_MVal | 2 |" in (tmp_path / "out" / "results.md").read_text()


def test_folders_without_a_benchmark_are_told(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds none of the folders GrabCut" in capsys.readouterr().err
