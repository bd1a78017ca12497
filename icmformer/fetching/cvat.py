"""CVAT, as those see it who read jobs from it or add shapes: its API through `cvat-sdk`, and its frames."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import urllib3
from tqdm import tqdm
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, TimeoutError

from icmformer.errors import ConfigError
from icmformer.fetching.addresses import brief
from icmformer.fetching.settings import CvatSettings
from icmformer.serving.errors import FetchError

INSTALL = "pip install cvat-sdk"
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds between tries: CVAT takes a minute or two to start again."""
_LONGEST_PAUSE = 300.0
_CONNECT_SECONDS = 5.0
_API_BYTES = 1 << 30  # of one answer: a job with all its masks
_PAGE = 100
_READINGS = 5  # of a list that changes meanwhile
_PASSING = (429, 500, 502, 503, 504)
"""Statuses of a server that starts, is overloaded, or fails; all others are its last word."""
_NO_FRAME = 422
_TOKEN = "make a personal access token on CVAT's profile page and set CVAT_ACCESS_TOKEN"


class CvatError(FetchError):
    """CVAT cannot be reached, or refuses.

    Attributes:
        status: HTTP's; 0 where there is no answer.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later: no answer, or that of a server in trouble."""
        return self.status == 0 or self.status in _PASSING

    @property
    def of_all(self) -> bool:
        """Whether other requests will fare no better: CVAT is away, or does not take the token."""
        return self.passing or self.status == 401


class Cvat:
    """CVAT: its address, and a token for it, which goes there alone.

    What only reads is tried again with growing pauses while CVAT is away, starts, or asks to wait. Redirects are told,
    not followed: nothing but CVAT itself is asked for anything.

    Args:
        url: Its address, scheme first.
        token: A personal access token.
        limit: Most bytes of a frame.
        seconds: Patience with an answer.
        pauses: Seconds before each further try.

    Raises:
        ConfigError: No address, no token, or no cvat-sdk.
    """

    def __init__(
        self, url: str, token: str, limit: int, seconds: float = 120.0, pauses: Sequence[float] = PAUSES
    ) -> None:
        if not url:
            raise ConfigError("CVAT's address is not known: set CVAT_HOST, as in http://localhost:8080")
        if not token:
            raise ConfigError(f"no login for CVAT: {_TOKEN}")
        self.url, self._token, self._limit, self._seconds, self._pauses = url, token, limit, seconds, tuple(pauses)
        self.identity = f"cvat {url} {hashlib.blake2b(token.encode(), digest_size=8).hexdigest()}"
        """Whose files these are, for caches that outlive this process: CVAT's, as a token's user may see it."""
        self._sdk()

    @staticmethod
    def from_settings(own: CvatSettings) -> Cvat:
        """CVAT as the settings have it."""
        return Cvat(own.host, own.token, own.max_image_bytes)

    @staticmethod
    def _sdk() -> Any:
        try:
            import cvat_sdk
            import cvat_sdk.core.client
        except ImportError as error:
            raise ConfigError(f"this needs CVAT's SDK: {INSTALL}") from error
        return cvat_sdk

    @cached_property
    def _api(self) -> Any:
        core = self._sdk().core.client
        client = core.Client(self.url, check_server_version=False)
        client.login(core.AccessTokenCredentials(self._token))
        pool = client.api_client.rest_client.pool_manager
        pool.connection_pool_kw["retries"] = urllib3.Retry(0, raise_on_redirect=False)
        return client.api_client

    def about(self) -> Mapping[str, Any]:
        """What CVAT says of itself: `version` and more."""
        return self._object("CVAT", self._api.server_api.retrieve_about_endpoint)

    def job(self, number: int) -> dict[str, Any]:
        """A job, as the API has it."""
        return self._object(f"job {number}", self._api.jobs_api.retrieve_endpoint, id=number)

    def task(self, number: int) -> dict[str, Any]:
        """A task, as the API has it."""
        return self._object(f"task {number}", self._api.tasks_api.retrieve_endpoint, id=number)

    def honeypots(self, task: Mapping[str, Any]) -> list[int]:
        """The frames of a task that repeat photos of its ground truth, to check annotators."""
        if task.get("validation_mode") != "gt_pool":
            return []
        what, endpoint = f"validation of task {task['id']}", self._api.tasks_api.retrieve_validation_layout_endpoint
        return list(self._object(what, endpoint, id=task["id"]).get("honeypot_frames") or ())

    def project(self, number: int) -> dict[str, Any]:
        """A project, as the API has it."""
        return self._object(f"project {number}", self._api.projects_api.retrieve_endpoint, id=number)

    def jobs(self, **of: int) -> Iterator[dict[str, Any]]:
        """All jobs of a task (`task_id`) or project (`project_id`), in order of their numbers."""
        return self._pages("jobs", self._api.jobs_api.list_endpoint, sort="id", **of)

    def labels(self, job: int) -> Iterator[dict[str, Any]]:
        """The labels of a job."""
        return self._pages(f"labels of job {job}", self._api.labels_api.list_endpoint, job_id=job)

    def meta(self, job: int) -> dict[str, Any]:
        """A job's frames: names, sizes, which are deleted."""
        return self._object(f"frames of job {job}", self._api.jobs_api.retrieve_data_meta_endpoint, id=job)

    def annotations(self, job: int) -> dict[str, Any]:
        """A job's tags, shapes and tracks."""
        endpoint = self._api.jobs_api.retrieve_annotations_endpoint
        return self._object(f"annotations of job {job}", endpoint, id=job)

    def frame(self, job: int, number: int) -> bytes:
        """The file of a frame in its original quality; of a video, a picture.

        Raises:
            CvatError: Not a `passing` one where CVAT answers other requests, so that the frame itself is at fault.
        """
        arguments = {"id": job, "type": "frame", "number": number, "quality": "original"}
        what = f"frame {number} of job {job}"
        try:
            return self._asked(what, self._api.jobs_api.retrieve_data_endpoint, self._limit, **arguments)
        except CvatError as error:
            if error.status < 500:
                raise
            self.job(job)  # raises where more than this frame is wrong
            raise CvatError(str(error), _NO_FRAME) from error

    def frame_name(self, task: int, number: int, meta: Mapping[str, Any]) -> str:
        """What a frame's file is called in the cache that commands share: another name once the task's data changed.

        Args:
            task: The task's number.
            number: The frame's.
            meta: Of the frames of a job, as the API has it.
        """
        return f"{self.identity} task {task} frame {number} {meta.get('chunks_updated_date') or ''}"

    def add_shapes(self, job: int, shapes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Adds shapes to a job, all or none; what it holds stays as it is. Tried once.

        Args:
            job: Its number.
            shapes: By the names of the API: type, frame, label_id, points, source, score, ...

        Returns:
            The shapes as CVAT has them now, with their ids.

        Raises:
            CvatError: CVAT refuses; or the connection broke, after which the job alone can tell whether they are there.
        """
        models = self._sdk().api_client.models
        made = [models.LabeledShapeRequest(**{**shape, "type": models.ShapeType(shape["type"])}) for shape in shapes]
        body = models.PatchedLabeledDataRequest(shapes=made)
        arguments = {"action": "create", "id": job, "patched_labeled_data_request": body}
        what, endpoint = f"new shapes of job {job}", self._api.jobs_api.partial_update_annotations_endpoint
        added = self._read(what, self._once(what, endpoint, _API_BYTES, arguments))
        return list(added.get("shapes") or ()) if isinstance(added, dict) else []

    def _pages(self, what: str, endpoint: Any, **arguments: Any) -> Iterator[dict[str, Any]]:
        """All entries of a list; once more from the start where some came or went meanwhile.

        CVAT counts pages, so one that goes moves those after it, the first of the next page out of sight.

        Raises:
            CvatError: And its like; the list changes time and again.
        """
        for _ in range(_READINGS):
            found: list[dict[str, Any]] = []
            counts: set[Any] = set()
            page, more = 1, True
            while more and len(counts) < 2:
                try:
                    answer = self._object(what, endpoint, page=page, page_size=_PAGE, **arguments)
                except CvatError as error:
                    if page == 1 or error.status != 404:
                        raise
                    answer = {}  # the last page has gone
                found += answer.get("results") or ()
                counts.add(answer.get("count"))
                page, more = page + 1, bool(answer.get("next"))
            if len(counts) == 1:
                return iter(found)
        raise CvatError(f"{what}: the list changes while it is read; try again later")

    def _object(self, what: str, endpoint: Any, **arguments: Any) -> dict[str, Any]:
        content = self._read(what, self._asked(what, endpoint, _API_BYTES, **arguments))
        if not isinstance(content, dict):
            raise CvatError(f"{what}: {self.url} does not answer as CVAT does; is it CVAT's address?")
        return content

    def _read(self, what: str, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            raise CvatError(f"{what}: {self.url} answers with something that is not JSON; is it CVAT's?") from error

    def _asked(self, what: str, endpoint: Any, limit: int, **arguments: Any) -> bytes:
        """The content of an answer, tried again while that may help."""
        for pause in self._pauses:
            try:
                return self._once(what, endpoint, limit, arguments)
            except _WaitError as error:
                wait = min(max(pause, error.seconds), _LONGEST_PAUSE)
                tqdm.write(f"{error}; trying again in {wait:g} s", file=sys.stderr)
                time.sleep(wait)
        return self._once(what, endpoint, limit, arguments)

    def _once(self, what: str, endpoint: Any, limit: int, arguments: Mapping[str, Any]) -> bytes:
        exceptions = self._sdk().api_client.exceptions
        try:
            _, response = endpoint.call_with_http_info(
                **arguments,
                _parse_response=False,
                _check_status=False,
                _request_timeout=(_CONNECT_SECONDS, self._seconds),
            )
            content: bytes = response.read(limit + 1)
            if len(content) > limit:
                response.close()
                name = " (ICMFORMER_MAX_IMAGE_MB)" if limit == self._limit else ""
                raise CvatError(f"{what} has more than {limit >> 20} MB, the limit{name}", 413)
            response.release_conn()
        except (HTTPError, OSError) as error:
            raise _WaitError(f"{what}: CVAT at {self.url} {_cause(error)}") from error
        except exceptions.ApiException as error:  # of TLS, alone
            raise CvatError(f"{what}: CVAT at {self.url} has no certificate that is trusted here") from error
        if 200 <= response.status < 300:
            return content
        text = f"{what}: {self._refusal(response.status, response.headers, content)}"
        if response.status in _PASSING:
            raise _WaitError(text, response.status, response.headers.get("Retry-After", ""))
        raise CvatError(text, response.status)

    def _refusal(self, status: int, headers: Mapping[str, str], content: bytes) -> str:
        if status == 401:
            return f"CVAT does not take CVAT_ACCESS_TOKEN (status 401): {_TOKEN}"
        if status in (403, 404):
            return f"CVAT answers {status}: it is not there, or the token's user may not see it"
        if 300 <= status < 400:
            onward = headers.get("Location", "").partition("?")[0]
            return f"{self.url} redirects to {onward}: give the address that opens CVAT"
        return f"CVAT answers {status}: {brief(' '.join(content[:2000].decode(errors='replace').split()))}"


class _WaitError(CvatError):
    """A failure that may pass."""

    def __init__(self, text: str, status: int = 0, after: str = "") -> None:
        super().__init__(text, status)
        self.seconds = float(after) if after.isascii() and after.isdigit() else 0.0


def _cause(error: BaseException) -> str:
    """What is wrong with a connection, in words; nothing of the library's text, which may quote a header."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, NameResolutionError):
        return "cannot be found: the name does not resolve"
    if isinstance(reason, NewConnectionError):
        return "cannot be reached: nothing listens there, or the network is down"
    if isinstance(reason, TimeoutError):
        return "does not answer in time"
    return f"broke the connection ({type(reason).__name__})"
