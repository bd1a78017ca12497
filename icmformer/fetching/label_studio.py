"""Label Studio, as those see it who fetch from it: its files, whatever a task calls them, and its API."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urljoin

from icmformer.fetching.addresses import Policy, Site, brief, label_studio_of, looks_like_label_studio, shown, split
from icmformer.fetching.http import Reply, request
from icmformer.fetching.settings import FetchSettings
from icmformer.serving.errors import FetchError, RequestError, TooLargeError

_REDIRECTS = 4
_RESERVED = "%/:?#[]@!$&'()*+,;=~"
_STORAGES = ("s3://", "gs://", "azure-blob://", "azure_spi://")
_API_BYTES = 256 << 20  # of one answer of the API: a page of tasks with all their masks
PRESIGNED = re.compile(r"/(tasks|projects)/\d+/(presign|resolve)/$")
"""Paths of Label Studio that answer with a redirect to a storage."""


class LabelStudio:
    """Label Studio: its address, and a token for it. Safe to use from several threads.

    Args:
        url: Its address, sub-path included; empty where none is known.
        token: Legacy token or personal access token; empty for none.
        policy: What else may be fetched.
        seconds: For a whole fetch.
        limit: Most bytes of a file.
        aliases: Addresses by which tasks name Label Studio too; what is below one is asked of `url`.
    """

    def __init__(
        self, url: str, token: str, policy: Policy, seconds: float, limit: int, aliases: Sequence[Site] = ()
    ) -> None:
        self.url, self._token, self.policy = url, token, policy
        self.seconds, self._limit, self._aliases = seconds, limit, aliases
        self._access: tuple[str, float] | None = None
        self._access_lock = threading.Lock()
        self.identity = f"{url} {hashlib.blake2b(token.encode(), digest_size=8).hexdigest()}"
        """Whose files these are, for caches that outlive this process: Label Studio's, as a token's user may see it."""

    @staticmethod
    def from_settings(own: FetchSettings, seconds: float | None = None, limit: int | None = None) -> LabelStudio:
        """Label Studio as the settings have it, with other bounds where they are given."""
        return LabelStudio(
            own.url,
            own.api_key,
            Policy.for_home(own.url, own.allowed_hosts, own.proxies),
            seconds or own.fetch_seconds,
            limit or own.max_image_bytes,
            own.aliases,
        )

    def absolute(self, url: str) -> str:
        """An address that the page uses, in full, as this backend reaches it: paths are below Label Studio's.

        Raises:
            RequestError: No address.
            FetchError: A path, and Label Studio's address is not known.
        """
        if not url.startswith("/"):
            alias = next((site for site in self._aliases if site.holds(url)), None)
            return url if alias is None else self.url + alias.below(url)
        if not self.url:
            raise FetchError(
                f"{shown(url)} is a file of Label Studio, whose address is not known: set LABEL_STUDIO_URL"
            )
        prefix = split(self.url).path.rstrip("/")
        return self.url + (url.removeprefix(prefix) if prefix and url.startswith(f"{prefix}/") else url)

    def file(self, url: str, task: str = "") -> bytes:
        """An image's file by the address that a task has.

        Args:
            url: Path of Label Studio, http(s) address, address of a storage, or `data:` with the content itself.
            task: The task's id; Label Studio presigns addresses of storages for a task.

        Raises:
            RequestError: And its kin: an address that is none or is refused, or one that cannot be fetched.
        """
        if url.startswith("data:"):
            return self._inline(url)
        if url.startswith(_STORAGES):
            if not task.isdigit():
                raise RequestError(f"{shown(url)} is presigned by Label Studio for a task, and the task has no id")
            coded = quote(base64.b64encode(url.encode()).decode(), safe="")
            try:
                return self.fetch(self.absolute(f"/tasks/{task}/presign/?fileuri={coded}"))
            except FetchError as error:
                raise FetchError(f"{shown(url)}: {error}") from error
        if url.startswith(("/", "http://", "https://")):
            return self.fetch(self.absolute(quote(url, safe=_RESERVED)))  # as a browser would
        raise RequestError(
            f"{shown(url)} is not an image address: use http(s)://, s3://, gs://, azure-blob://, data: or a path of "
            "Label Studio"
        )

    def _inline(self, url: str) -> bytes:
        if len(url) > 1.4 * self._limit:
            raise TooLargeError(f"the data: address has more than the {self._limit >> 20} MB that are supported")
        head, comma, coded = url[5:].partition(",")
        if not comma:
            raise RequestError("the data: address has no comma, and so no content")
        if not head.endswith(";base64"):
            return unquote_to_bytes(coded)
        try:
            return base64.b64decode(unquote_to_bytes(coded), validate=True)
        except binascii.Error as error:
            raise RequestError(f"the data: address is not base64: {error}") from error

    def api(self, path: str, body: Any = None, method: str = "") -> Any:
        """What Label Studio's API answers, read from JSON; None for an empty answer.

        Args:
            path: From `/api/` on, with its query.
            body: What to send, as JSON; None for nothing.
            method: HTTP's; empty for GET, or, with a body, POST.

        Raises:
            ApiError: Label Studio refuses; the text has its own words.
            FetchError: It cannot be reached, does not answer in time, or with something that is not JSON.
        """
        url, deadline = self.absolute(path), time.monotonic() + self.seconds
        content = None if body is None else json.dumps(body).encode()
        reply = self._asked(url, deadline, content, method)
        if not 200 <= reply.status < 300:
            raise ApiError(_refusal(url, reply, bool(self._token)), reply.status)
        if not reply.content:
            return None
        try:
            return json.loads(reply.content)
        except ValueError as error:
            raise FetchError(
                f"{shown(url)} answered with something that is not JSON: is LABEL_STUDIO_URL right, sub-path included?"
            ) from error

    def _asked(self, url: str, deadline: float, content: bytes | None, method: str) -> Reply:
        def ask() -> Reply:
            headers = self._authorization(deadline)
            if content is not None:
                headers = {**headers, "Content-Type": "application/json"}
            return request(
                url, self.policy, deadline=deadline, limit=_API_BYTES, headers=headers, body=content, method=method
            )

        reply = ask()
        if reply.status == 401 and self._access is not None:
            self._access = None  # expired before its time
            reply = ask()
        return reply

    def fetch(self, url: str) -> bytes:
        """A file's content; redirects are followed as far as the policy allows, the token goes to Label Studio alone.

        Where Label Studio itself redirects to a storage (its presign paths), any public host will do.

        Args:
            url: In full.

        Raises:
            FetchError: And what `request` raises; the text says what to do.
        """
        deadline = time.monotonic() + self.seconds
        trusted_redirect = False
        for _ in range(_REDIRECTS):
            home = self.policy.is_home(url)
            reply = self._get(url, deadline, home, trusted_redirect)
            if reply.status in (301, 302, 303, 307, 308) and reply.location:
                trusted_redirect = home and PRESIGNED.search(split(url).path) is not None
                url = _onward(url, reply.location)
                continue
            if reply.status == 200:
                if home and reply.content_type.startswith("text/html"):
                    raise FetchError(
                        f"{shown(url)} is a web page of Label Studio, not a file: is LABEL_STUDIO_URL right, sub-path "
                        "included, and LABEL_STUDIO_API_KEY that of a user who may see the task?"
                    )
                return reply.content
            raise FetchError(_advice(url, reply.status, home, bool(self._token)))
        raise FetchError(f"{shown(url)} redirects more than {_REDIRECTS - 1} times")

    def _get(self, url: str, deadline: float, home: bool, trusted: bool) -> Reply:
        def ask() -> Reply:
            headers = self._authorization(deadline) if home else {}
            try:
                return request(
                    url, self.policy, deadline=deadline, limit=self._limit, headers=headers, public_redirect=trusted
                )
            except TooLargeError as error:
                raise TooLargeError(f"{error} (ICMFORMER_MAX_IMAGE_MB)") from error

        reply = ask()
        if reply.status == 401 and home and self._access is not None:
            self._access = None  # expired before its time
            reply = ask()
        return reply

    def _authorization(self, deadline: float) -> dict[str, str]:
        if not self._token:
            return {}
        if self._token.count(".") != 2:
            return {"Authorization": f"Token {self._token}"}
        with self._access_lock:
            access = self._access
            if access is None or access[1] < time.monotonic():
                access = self._access = self._exchanged(deadline), time.monotonic() + 240  # Label Studio's last 300 s
        return {"Authorization": f"Bearer {access[0]}"}

    def _exchanged(self, deadline: float) -> str:
        """A short-lived token for a personal access token."""
        reply = request(
            f"{self.url}/api/token/refresh/",
            self.policy,
            deadline=deadline,
            limit=1 << 20,
            headers={"Content-Type": "application/json"},
            body=json.dumps({"refresh": self._token}).encode(),
        )
        try:
            access = json.loads(reply.content)["access"] if reply.status == 200 else None
        except (ValueError, KeyError, TypeError):
            access = None
        if reply.status >= 500:
            raise ApiError(f"{self.url}/api/token/refresh/ answered {reply.status}", reply.status)
        if not isinstance(access, str):
            raise ApiError(
                f"Label Studio did not take the personal access token (status {reply.status}): make a new one on the "
                "account page and set LABEL_STUDIO_API_KEY",
                reply.status if reply.status != 200 else 401,
            )
        return access


class ApiError(FetchError):
    """Label Studio's API refused.

    Attributes:
        status: HTTP's.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def _refusal(url: str, reply: Reply, token: bool) -> str:
    """What to tell of an answer of the API that is no success, with Label Studio's own words where it has some."""
    if reply.status in (401, 403, 404):
        return _advice(url, reply.status, True, token)
    try:
        said = json.loads(reply.content)
    except ValueError:
        said = None
    words = (said.get("detail") or said) if isinstance(said, dict) else said
    return f"{shown(url)} answered {reply.status}" + (f": {brief(str(words))}" if words else "")


def _onward(url: str, location: str) -> str:
    """Where a redirect leads."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise FetchError(f"{shown(url)} redirects to something that is not an address") from error


def _advice(url: str, status: int, home: bool, token: bool) -> str:
    told = f"{shown(url)} answered {status}"
    if not home and status in (401, 403, 404) and looks_like_label_studio(url):
        return (
            f"{told}: if that is Label Studio by another name, put {label_studio_of(url)} into LABEL_STUDIO_ALIASES; "
            "the token goes to LABEL_STUDIO_URL alone"
        )
    if home and status == 404 and PRESIGNED.search(split(url).path):
        return (
            told
            + ": Label Studio knows no storage for it; connect the storage to the project (Settings, Cloud Storage)"
        )
    if home and status in (401, 403):
        return (
            told
            + ": "
            + (
                "the token in LABEL_STUDIO_API_KEY is wrong, disabled for the organisation, or may not see this task"
                if token
                else "set LABEL_STUDIO_API_KEY to a token of a user who may see the task"
            )
        )
    if home and status == 404:
        return told + ": is LABEL_STUDIO_URL right, sub-path included, and local file serving on?"
    return told
