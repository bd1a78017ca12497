"""From a task's image address to pixels: uploads, local files, http(s), cloud storage, data URIs."""

from __future__ import annotations

import base64
import binascii
import threading
from urllib.parse import quote, unquote_to_bytes

from icmformer.errors import ImageError, ImageTooLargeError
from icmformer.imageio import LoadedImage, content_digest
from icmformer.inference.cache import Cache
from ls_backend.addresses import shown
from ls_backend.errors import RequestError, TooLargeError, UnusableImageError
from ls_backend.filecache import FileCache
from ls_backend.http import LabelStudio

_RESERVED = "%/:?#[]@!$&'()*+,;=~"
_STORAGES = ("s3://", "gs://", "azure-blob://", "azure_spi://")


class Images:
    """Loads images by address.

    Args:
        studio: Label Studio.
        files: Fetched files.
        decoded: Decoded images by address.
        max_pixels: Largest image opened.
        max_bytes: Largest file.
    """

    def __init__(
        self, studio: LabelStudio, files: FileCache, decoded: Cache[LoadedImage], max_pixels: int, max_bytes: int
    ) -> None:
        self._studio, self._files, self._decoded = studio, files, decoded
        self._max_pixels, self._max_bytes = max_pixels, max_bytes
        self._busy: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def load(self, url: str, task: str) -> LoadedImage:
        """The image at an address, as its file's orientation tag says it is to be seen.

        Args:
            url: As the task has it.
            task: The task's id; Label Studio presigns cloud addresses for a task.

        Raises:
            RequestError: And its kin: an address that is refused or cannot be fetched, a file that is no image.
        """
        with self._one_at_a_time(url):
            return self._load(url, task)

    def _load(self, url: str, task: str) -> LoadedImage:
        inline = url.startswith("data:")
        key = url if len(url) < 300 else content_digest(url.encode())
        if (inline or self._files.has(url)) and (kept := self._decoded.get(key)) is not None:
            return kept
        content = self._inline(url) if inline else self._files.get(url)
        fresh = content is None
        if content is None:
            content = self._fetch(url, task)
        try:
            image = LoadedImage.from_bytes(content, self._max_pixels)
        except ImageTooLargeError as error:
            raise TooLargeError(f"{shown(url)}: {error}") from error
        except ImageError as error:
            raise UnusableImageError(f"{shown(url)}: {error}") from error
        if fresh:
            self._files.put(url, content)
        self._decoded.put(key, image)
        return image

    def _fetch(self, url: str, task: str) -> bytes:
        if url.startswith(_STORAGES):
            if not task.isdigit():
                raise RequestError(f"{shown(url)} is presigned by Label Studio for a task, and the task has no id")
            coded = quote(base64.b64encode(url.encode()).decode(), safe="")
            return self._studio.fetch(
                self._studio.absolute(f"/tasks/{task}/presign/?fileuri={coded}"), from_presign=True
            )
        if url.startswith(("/", "http://", "https://")):
            return self._studio.fetch(self._studio.absolute(quote(url, safe=_RESERVED)))  # as a browser would
        raise RequestError(
            f"{shown(url)} is no address of an image: http(s)://, s3://, gs://, azure-blob://, data: and Label "
            "Studio's own paths are"
        )

    def _inline(self, url: str) -> bytes:
        if len(url) > 1.4 * self._max_bytes:
            raise TooLargeError(f"the data: address has more than the {self._max_bytes >> 20} MB that are taken")
        head, comma, coded = url[5:].partition(",")
        if not comma:
            raise RequestError("the data: address has no comma, and so no content")
        if not head.endswith(";base64"):
            return unquote_to_bytes(coded)
        try:
            return base64.b64decode(unquote_to_bytes(coded), validate=True)
        except binascii.Error as error:
            raise RequestError(f"the data: address is not base64: {error}") from error

    def _one_at_a_time(self, url: str) -> threading.Lock:
        """Requests for one address wait for the first to fetch it."""
        with self._guard:
            if len(self._busy) > 1000:
                self._busy = {key: lock for key, lock in self._busy.items() if lock.locked()}
            return self._busy.setdefault(url[:4096], threading.Lock())
