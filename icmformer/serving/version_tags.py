"""Short tags of models: what made a mask is written into the mask's id. No torch here: codecs import it."""

from __future__ import annotations

import hashlib


def version_tag(model: str) -> str:
    """Eight hexadecimal digits that stand for a model.

    Args:
        model: Its name as replies and the click log have it.
    """
    return hashlib.blake2b(model.encode(), digest_size=4).hexdigest()
