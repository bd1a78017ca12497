"""What the speed figures are relative to, and that the table comes out."""

import json
import re
from collections import defaultdict
from threading import BrokenBarrierError

import pytest
import torch

from icmformer.errors import WeightsError
from icmformer.models import build_network
from icmformer.processor import instruction_sets
from tests.commands import run_without
from training.bench import main
from training.tools.machine import machine
from training.tools.published_path import PublishedViT
from training.tools.throughput import workers_throughput


def test_the_base_line_computes_the_same_logits():
    torch.manual_seed(0)
    network = build_network("icmformer_vit_tiny224").eval()
    image, previous = torch.rand(2, 3, 448, 448), torch.rand(2, 1, 448, 448)
    points = torch.tensor([[[80.0, 90, 0], [20, 30, 1], [-1, -1, -1], [50, 150, 2]]] * 2)
    with torch.inference_mode():
        expected = network(image, previous, points)
    torch.testing.assert_close(PublishedViT(network)(image, previous, points), expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-4


@pytest.mark.parametrize(
    "option",
    ["--repeats=0", "--threads=0", "--megapixels=0", "--clients=0", "--seconds=nan", "--plot=a.foo", "--drift=0"],
)
def test_options_that_cannot_be_are_refused_before_anything_is_measured(option, capsys):
    with pytest.raises(SystemExit) as ended:
        main([option])
    assert ended.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_a_base_line_that_is_no_plain_vit_is_refused(capsys):
    assert main(["--published", "starter"]) == 2
    assert "is not iCMFormer on a plain ViT" in capsys.readouterr().err


def test_the_table_holds_ratios_to_the_base_line_of_its_own_run(miniature, tmp_path, capsys):
    options = ["--published", miniature, "--weights", miniature, "--repeats", "1", "--megapixels", "0.1"]
    options += ["--clients", "1", "2", "--seconds", "0.2", "--threads", "1", "--drift", "100000"]
    assert main([*options, "--json", str(tmp_path / "bench.json"), "--plot", str(tmp_path / "bench.png")]) == 0
    told = capsys.readouterr().out
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["published_ms"] > 0
    for row in figures["clicks"]:
        assert abs(row["later_ratio"] - figures["published_ms"] / row["later_ms"]) < 1e-9
        assert f"{row['later_ratio']:.1f}x" in told
    assert {row["profile"] for row in figures["clicks"]} == {"exact", "fast"}
    assert "torch" in {row["runtime"] for row in figures["clicks"]}
    assert [row["clients"] for row in figures["throughput"]] == [1, 2]
    assert all(row["rest_ms"] < row["later_ms"] for row in figures["sizes"])
    assert (tmp_path / "bench.png").stat().st_size > 5000


def test_where_the_base_line_moved_there_are_times_and_no_ratios(miniature, tmp_path, capsys):
    options = ["--published", miniature, "--weights", miniature, "--repeats", "1", "--megapixels", "0.1"]
    options += ["--clients", "1", "--seconds", "0.1", "--threads", "1", "--drift", "0.000001"]
    assert main([*options, "--json", str(tmp_path / "bench.json"), "--plot", str(tmp_path / "bench.png")]) == 1
    told = capsys.readouterr().out
    assert "No ratios: the baseline took" in told
    assert not re.search(r"\d\.\dx", told)
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert not any("later_ratio" in row for row in figures["clicks"])
    assert all(f"{row['later_ms']:.1f} ms" in told or f"{row['later_ms']:.0f} ms" in told for row in figures["clicks"])
    assert not (tmp_path / "bench.png").exists()


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch says it in public in later versions")
def test_the_header_names_the_instruction_sets_that_torch_sees():
    able = defaultdict(bool, torch.cpu.get_capabilities())
    named = {
        "AVX2": able["avx2"],
        "AVX-512": able["avx512_f"],
        "VNNI": able["avx512_vnni"] or able["avx_vnni"],
        "bf16": able["avx512_bf16"] or able["amx_bf16"],
        "AMX": able["amx_tile"],
    }
    assert instruction_sets() == tuple(name for name, there in named.items() if there)
    assert all(name in machine() for name in instruction_sets())


def test_a_worker_that_fails_ends_the_measurement():
    with pytest.raises((WeightsError, BrokenBarrierError)):
        workers_throughput("nowhere", 2, 1, 0.1)


def test_training_and_measuring_need_none_of_the_optional_packages(miniature):
    program = """
import training.evaluate, training.export, training.train
from training.bench import main
from training.tools.machine import machine
sys.exit(main(sys.argv[1:]))
"""
    options = ["--weights", miniature, "--published", miniature, "--repeats", "1", "--megapixels", "0.1"]
    options += ["--clients", "1", "--seconds", "0.1", "--threads", "1", "--drift", "100000"]
    told = run_without(program, *options)
    assert "OpenVINO not installed" in told
    assert "miniature, torch, exact" in told
    assert "openvino," not in told
