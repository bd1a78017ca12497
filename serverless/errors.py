"""Errors of the function, beside those of the package."""

from __future__ import annotations

from icmformer.errors import IcmformerError, ImageError, ImageTooLargeError, PromptError


class RequestError(IcmformerError, ValueError):
    """A request that is not what CVAT sends."""


class NothingFoundError(IcmformerError, ValueError):
    """An empty mask for clicks on an object, which the reply form of CVAT before 2.60 cannot say."""


class NotReadyError(IcmformerError, RuntimeError):
    """The function started without a model."""


STATUS: tuple[tuple[type[IcmformerError], int, str], ...] = (
    (RequestError, 400, "bad request"),
    (PromptError, 400, "bad prompt"),
    (ImageTooLargeError, 413, "too large"),
    (ImageError, 422, "unusable image"),
    (NothingFoundError, 422, "nothing found"),
    (NotReadyError, 503, "not ready"),
)
"""Error, HTTP status, and the word for it in replies and logs; the first that fits counts."""

INTERNAL = "internal error"
"""The word for a fault of our own, which has status 500."""
