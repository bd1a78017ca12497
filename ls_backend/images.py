"""From a task's image address to pixels: uploads, local files, http(s), cloud storage, data URIs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from icmformer.errors import ImageError, ImageTooLargeError
from icmformer.fetching.addresses import shown
from icmformer.fetching.filecache import FileCache
from icmformer.fetching.label_studio import LabelStudio
from icmformer.images.reading import LoadedImage, content_digest
from icmformer.inference.cache import Cache
from icmformer.serving.errors import FetchError, TooLargeError, UnusableImageError
from icmformer.serving.queue import Turn

_GRACE = 30.0  # seconds for decoding, beside those for fetching


@dataclass(frozen=True)
class DecodedImage:
    """An image, and when its file was fetched (seconds since 1970)."""

    image: LoadedImage
    fetched: float

    @property
    def nbytes(self) -> int:
        """Bytes held, for bounded caches."""
        return self.image.nbytes


class Images:
    """Loads images by address.

    Args:
        studio: Label Studio.
        files: Fetched files.
        decoded: Decoded images by address.
        max_pixels: Largest image opened.
    """

    def __init__(self, studio: LabelStudio, files: FileCache, decoded: Cache[DecodedImage], max_pixels: int) -> None:
        self._studio, self._files = studio, files
        self._max_pixels = max_pixels
        self.decoded: Cache[DecodedImage] = decoded
        self._flights: dict[str, Future[LoadedImage]] = {}
        self._guard = threading.Lock()

    def load(self, url: str, task: str, turn: Turn | None = None) -> LoadedImage:
        """The image at an address, as its file's orientation tag says it is to be seen.

        Args:
            url: As the task has it.
            task: The task's id; Label Studio presigns cloud addresses for a task.
            turn: Of the request that needs it, which may be superseded while somebody else fetches.

        Raises:
            RequestError: And its kin: an address that is refused or cannot be fetched, a file that is no image.
            SupersededError: A newer request of the object came.
        """
        with self._guard:
            flight = self._flights.get(url)
            first = flight is None
            if flight is None:
                flight = self._flights[url] = Future()
        if not first:  # somebody else is at it: their image or their error is ours
            try:
                return (turn or Turn()).result(flight, self._studio.seconds + _GRACE)
            except TimeoutError as error:
                raise FetchError(f"{shown(url)} did not arrive in time") from error
        try:
            image = self._load(url, task)
        except BaseException as error:
            flight.set_exception(error)
            raise
        else:
            flight.set_result(image)
            return image
        finally:
            with self._guard:
                del self._flights[url]

    def _load(self, url: str, task: str) -> LoadedImage:
        inline, name = url.startswith("data:"), f"{self._studio.identity} {url}"
        key = url if len(url) < 300 else content_digest(url.encode())
        kept, on_disk = self.decoded.get(key), None if inline else self._files.fetched(name)
        if kept is not None and (
            inline or on_disk == kept.fetched or (not on_disk and self._files.fresh(kept.fetched))
        ):
            return kept.image
        content = None if inline else self._files.get(name)
        fresh = content is None
        if content is None:
            content = self._studio.file(url, task)
        try:
            image = LoadedImage.from_bytes(content, self._max_pixels, shown_by="label studio")
        except ImageTooLargeError as error:
            raise TooLargeError(f"{shown(url)}: {error}") from error
        except ImageError as error:
            raise UnusableImageError(f"{shown(url)}: {error}") from error
        if fresh and not inline:
            self._files.put(name, content)
            on_disk = self._files.fetched(name)
        self.decoded.put(key, DecodedImage(image, on_disk or time.time()))
        return image
