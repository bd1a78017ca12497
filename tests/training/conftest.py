import io
import json
import zipfile

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from icmformer import weights
from icmformer.models import build_network
from tests.engines import MINIATURE
from training.loop.config import parse_config

TINY_RUN = {
    "network": MINIATURE,
    "size": 224,
    "batch": 2,
    "samples": 12,
    "precision": "fp32",
    "data": {"shards": ["tiny.zip"]},
    "optim": {"lr": 0.001, "warmup_samples": 4},
}


@pytest.fixture
def tiny_config():
    return parse_config(TINY_RUN)


@pytest.fixture(scope="session")
def miniature(tmp_path_factory):
    """A folder of weights of the MINIATURE, untrained."""
    torch.manual_seed(0)
    state = build_network(MINIATURE).state_dict()
    about = {"trained": "not at all"}
    return str(weights.save(tmp_path_factory.mktemp("weights") / "miniature", MINIATURE, state, "miniature", about))


@pytest.fixture(scope="session")
def shard_root(tmp_path_factory):
    """A shard of six pictures of bright shapes; keys chosen so that none is held out but the last."""
    root = tmp_path_factory.mktemp("shards")
    records = []
    with zipfile.ZipFile(root / "tiny.zip", "w") as archive:
        for n in range(6):
            rng = np.random.default_rng(n)
            labels = np.zeros((120, 160), np.uint8)
            cv2.circle(labels, (50, 60), 30, 1, -1)
            cv2.rectangle(labels, (110, 20), (150, 100), 2, -1)
            pixels = (rng.random((120, 160, 3)) * 60 + 60 * labels[..., None]).astype(np.uint8)
            for suffix, form, picture in ((".webp", "WEBP", pixels), (".png", "PNG", labels)):
                out = io.BytesIO()
                Image.fromarray(picture).save(out, form)
                archive.writestr(f"photo{n}{suffix}", out.getvalue())
            records.append({"key": f"photo{n}", "set": "solar" if n == 5 else "coco", "labels": [1, 2]})
        archive.writestr("index.jsonl", "\n".join(map(json.dumps, records)))
    return root
