"""Networks without values."""

import subprocess
import sys

import pytest

from icmformer.models import build_network, meta_network

PROGRAM = """
import sys
import torch
from icmformer import Engine
from icmformer.models import meta_network
Engine.from_weights("starter", runtime="torch").warm_up()
forbidden = ["torch._dynamo", "torch._inductor"]
if not torch.__version__.startswith("2.6."):  # it loads sympy by itself
    forbidden.append("sympy")
print([name for name in forbidden if name in sys.modules])
"""


@pytest.mark.parametrize("variant", ["icmformer_vit_tiny224", "icmformer_swin_small224", "icmformer_hybrid_lite320"])
def test_it_has_the_networks_shapes_and_no_values(variant):
    values, shapes = build_network(variant).state_dict(), meta_network(variant).state_dict()
    assert {k: (v.shape, v.dtype) for k, v in values.items()} == {k: (v.shape, v.dtype) for k, v in shapes.items()}
    assert all(v.is_meta for v in shapes.values())


def test_serving_does_not_load_torchs_compiler():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
