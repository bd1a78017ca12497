"""Profiles and devices: what torch is asked about the processor."""

import pytest
import torch

from icmformer.inference.profiles import PROFILES, has_bf16

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
    assert PROFILES["fast"].precision(CPU).autocast is None
