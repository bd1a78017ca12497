"""How Label Studio has models named, and their short tags in the ids of masks. No torch here: codecs import it."""

from __future__ import annotations

import hashlib


def model_name(weights: str, sha256: str, profile: str) -> str:
    """How replies to Label Studio, predictions and logs name a model.

    Args:
        weights: The weights' name.
        sha256: Their checksum.
        profile: The profile's name.
    """
    return f"icmformer {weights} {sha256[:8]} {profile}"


def version_tag(model: str) -> str:
    """Eight hexadecimal digits that stand for a model.

    Args:
        model: Its name as replies and the click log have it.
    """
    return hashlib.blake2b(model.encode(), digest_size=4).hexdigest()
