"""Writes names and shapes of timm's state dicts beside itself: `python tests/golden/timm/make.py` with `[timm]`."""

import json
from pathlib import Path

from training.loop.timm_backbones import import_timm

NAMES = ("vit_base_patch16_224.mae", "vit_base_patch16_224.augreg_in21k", "swin_base_patch4_window12_384")


def shapes(name):
    """Parameter and buffer name -> shape."""
    return {k: list(v.shape) for k, v in import_timm().create_model(name, pretrained=False).state_dict().items()}


if __name__ == "__main__":
    for name in NAMES:
        lines = [f"{json.dumps(key)}: {json.dumps(shape)}" for key, shape in shapes(name).items()]
        Path(__file__).with_name(f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
