"""The training config of a fine-tuning run."""

from __future__ import annotations

from typing import Any

from icmformer.models import network_config
from icmformer.weights import Weights
from training.finetuning.settings import FinetuneSettings, is_hybrid

LEAST_SHARE = 0.0001
"""Share of the input a target covers at least: a team's objects are trained on however small they are."""


def training_config(weights: Weights, settings: FinetuneSettings) -> dict[str, Any]:
    """A short and warm training, gentle with what is known already, with few images seen in many ways."""
    hybrid = is_hybrid(weights)
    return {
        "network": weights.config,
        "size": network_config(weights.config).img_size,
        "batch": settings.batch,
        "samples": settings.samples,
        "seed": settings.seed,
        "channels_last": hybrid,
        "precision": "bf16",
        "data": {"shards": ["train"], "balance": "objects", "least": 0.0},
        "augment": {
            "least": LEAST_SHARE,
            "turns": True,
            "tilt": 15.0,
            "resize": [0.75, 2.0],
            "brightness": [-0.3, 0.3],
        },
        "optim": {
            "lr": settings.learning_rate(weights),
            "weight_decay": 0.02,
            "warmup_samples": settings.samples // 20,
            "schedule": "cosine",
            "ema": 0.99,
            "lr_factors": {"backbone.trunk.": 0.2} if hybrid else {},
        },
        "points": {"gamma": 0.35, "centre_first": 0.5, "max_points": 12},
        "pictures": max(settings.samples // 4, 1),
    }
