"""Profiles and devices: what torch is asked about the processor."""

import pytest
import torch

from icmformer.errors import ConfigError
from icmformer.inference import profiles
from icmformer.inference.profiles import PROFILES, find_arithmetic, has_bf16

CPU = torch.device("cpu")
ASKED = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@pytest.mark.parametrize("name", ASKED)
def test_torch_still_has_the_private_checks_that_choose_bf16(name):
    """Without them `has_bf16` says no, and `fast` computes in fp32 where it could in bf16: right, at half the speed."""
    assert callable(getattr(torch.cpu, name, None)), f"torch {torch.__version__} has no torch.cpu.{name} any more"


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch says it in public in later versions")
def test_bf16_is_what_torch_says_of_the_processor_in_public():
    said = torch.cpu.get_capabilities()
    assert has_bf16(CPU) == bool(said.get("avx512_bf16") or said.get("amx_tile"))


def test_without_the_checks_fast_is_fp32(monkeypatch):
    for name in ASKED:
        monkeypatch.delattr(torch.cpu, name)
    assert not has_bf16(CPU)
    assert find_arithmetic("auto", PROFILES["fast"], CPU, "torch", ranges=False) == "fp32"


@pytest.mark.parametrize(
    ("asked", "profile", "bf16", "vnni", "runtime", "ranges", "expected"),
    [
        ("auto", "fast", True, True, "openvino", True, "bf16"),
        ("auto", "fast", False, True, "openvino", True, "int8"),
        ("auto", "fast", False, True, "openvino", False, "fp32"),
        ("auto", "fast", False, True, "torch", True, "fp32"),
        ("auto", "fast", False, False, "openvino", True, "fp32"),  # int8 is slower than fp32 there
        ("auto", "exact", True, True, "openvino", True, "fp32"),
        ("int8", "exact", False, True, "openvino", True, "fp32"),
        ("int8", "fast", True, False, "openvino", True, "int8"),
        ("fp32", "fast", True, True, "openvino", True, "fp32"),
        ("bf16", "fast", True, True, "torch", False, "bf16"),
    ],
)
def test_the_processor_and_the_setting_choose_the_arithmetic(  # the table of docs/performance.md
    monkeypatch, asked, profile, bf16, vnni, runtime, ranges, expected
):
    monkeypatch.setattr(profiles, "has_bf16", lambda device: bf16)
    monkeypatch.setattr(profiles, "instruction_sets", lambda: ("AVX2", "VNNI") if vnni else ("AVX2",))
    assert find_arithmetic(asked, PROFILES[profile], CPU, runtime, ranges) == expected


@pytest.mark.parametrize(
    ("asked", "runtime", "ranges", "said"),
    [
        ("int4", "openvino", True, "ICMFORMER_PRECISION=int4 is unknown; there are auto, fp32, bf16, int8"),
        (
            "int8",
            "torch",
            True,
            "int8 needs a CPU and the openvino runtime, not torch on cpu; or set ICMFORMER_PRECISION=auto",
        ),
        ("int8", "openvino", False, "needs ranges, which these weights do not have: measure them"),
        ("bf16", "openvino", True, "does not compute in bf16"),
    ],
)
def test_what_cannot_be_had_is_told(monkeypatch, asked, runtime, ranges, said):
    monkeypatch.setattr(profiles, "has_bf16", lambda device: False)
    with pytest.raises(ConfigError, match=said):
        find_arithmetic(asked, PROFILES["fast"], CPU, runtime, ranges)
