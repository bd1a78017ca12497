import cv2
import numpy as np
from PIL import Image

from icmformer.inference.roi import PixelClick
from training.edges import main
from training.evaluation.edge_clicks import places


def test_where_an_object_meets_the_edge():
    truth = np.zeros((60, 80), bool)
    truth[:20, :31] = True  # top left
    truth[55:, 40:44] = True  # too short a stretch
    truth[30:41, 70:] = True
    assert dict(places(truth)) == {
        "corner": PixelClick(0, 0, True),
        "top": PixelClick(0, 15, True),
        "left": PixelClick(10, 0, True),
        "right": PixelClick(35, 79, True),
    }
    assert not [*places(np.zeros((9, 9), bool))]


def test_the_command_prints_a_row_for_each_place(tmp_path, capsys):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for n in range(2):
        mask = np.zeros((120, 160), np.uint8)
        cv2.circle(mask, (0, 60), 30, 255, -1)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{n}.png")
        Image.fromarray(np.dstack([mask // 2 + 40 + n] * 3)).save(tmp_path / "images" / f"{n}.png")
    arguments = ["--dataset", "folder", "--root", str(tmp_path), "--margins", "0", "5"]
    assert main(arguments) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["where", "clicks"]
    assert row.split()[:2] == ["left", "2"]
    assert float(row.split()[4]) > 0.7  # a bright half disk
    assert main([*arguments, "--margins", "-1"]) == 2
    assert "start" in capsys.readouterr().err
