import pytest

from training.evaluation.benchmarks import load_benchmark
from training.overfit import main
from training.tools.overfit import write_images


def test_the_images_and_their_outlines_belong_together(tmp_path):
    write_images(tmp_path)
    objects = load_benchmark("folder", tmp_path)
    assert len(objects) == 5
    for item in objects:
        image, truth = item.load()
        assert image.pixels.shape[:2] == truth.shape
        assert 0.01 < (truth == 1).mean() < 0.6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tiny_network_learns_five_images_by_heart(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--threads", "1"]) == 0
    assert "learned: every image" in capsys.readouterr().out
