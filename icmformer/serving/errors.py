"""What can go wrong with a request, each with the status that answers it."""

from __future__ import annotations

from icmformer.errors import IcmformerError


class RequestError(IcmformerError, ValueError):
    """A request that cannot be answered as it is."""

    status = 400
    kind = "bad request"


class TooLargeError(RequestError):
    """A body or an image over the limit."""

    status = 413
    kind = "too large"


class RefusedHostError(RequestError):
    """An address that this backend does not fetch from."""

    status = 403
    kind = "refused address"


class UnusableImageError(RequestError):
    """What was fetched is no image that can be opened, or not the one that was annotated."""

    status = 422
    kind = "unusable image"


class FetchError(RequestError):
    """An image that could not be fetched."""

    status = 502
    kind = "image not fetched"


class BusyError(RequestError):
    """No worker came free in time."""

    status = 503
    kind = "busy"


ERROR_KINDS = (
    *(
        error.kind
        for error in (RequestError, TooLargeError, RefusedHostError, UnusableImageError, FetchError, BusyError)
    ),
    "not authorised",
    "internal error",
)
"""The words of replies and metrics for what can go wrong."""
