"""What can go wrong with a request, and the table of the statuses that answer it."""

from __future__ import annotations

from icmformer.errors import DeviceMemoryError, IcmformerError, ImageError, ImageTooLargeError, PromptError


class RequestError(IcmformerError, ValueError):
    """A request that cannot be answered as it is."""


class TooLargeError(RequestError):
    """A body or an image over the limit."""


class RefusedHostError(RequestError):
    """An address that this server does not fetch from."""


class UnusableImageError(RequestError):
    """What was fetched is no image that can be opened, or not the one that was annotated."""


class FetchError(RequestError):
    """An image that could not be fetched."""


class NothingFoundError(RequestError):
    """An empty mask for clicks on an object, which the reply form of CVAT before 2.60 cannot say."""


class BusyError(RequestError):
    """No place came free in time."""


class NotReadyError(RequestError):
    """The server started without a model."""


class TrainingRefusedError(RequestError):
    """A training that cannot be started here."""


class SupersededError(Exception):
    """A newer request of the same object came meanwhile; its reply is the one that counts."""


STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (TooLargeError, 413, "too large"),
    (RefusedHostError, 403, "refused address"),
    (UnusableImageError, 422, "unusable image"),
    (FetchError, 502, "image not fetched"),
    (NothingFoundError, 422, "nothing found"),
    (BusyError, 503, "busy"),
    (NotReadyError, 503, "not ready"),
    (TrainingRefusedError, 409, "training refused"),
    (DeviceMemoryError, 503, "out of memory"),
    (RequestError, 400, "bad request"),
    (PromptError, 400, "bad prompt"),
    (ImageTooLargeError, 413, "too large"),
    (ImageError, 422, "unusable image"),
    (Exception, 500, "internal error"),
)
"""Error, HTTP status, and the word for it in replies, logs and metrics; the first that fits counts."""

NOT_AUTHORISED = "not authorised"
ERROR_KINDS = tuple(dict.fromkeys([*(kind for *_, kind in STATUS), NOT_AUTHORISED]))
"""All words for what can go wrong."""


def status_of(error: Exception) -> tuple[int, str]:
    """The HTTP status and the word for an error."""
    return next((status, kind) for known, status, kind in STATUS if isinstance(error, known))
