"""What `icmformer doctor` says of CVAT: address, version, form of replies, token; is the function there, and alive?"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Mapping
from email.message import Message
from functools import cached_property, partial
from typing import Any
from urllib.parse import quote, urlsplit

from icmformer.diagnosis.machine import clock_facts
from icmformer.diagnosis.report import NETWORK_SECONDS, Finding, Report, failed, ok, skipped, warning
from icmformer.errors import ConfigError, IcmformerError
from icmformer.settings import without_shared

from .settings import FunctionSettings

SETTINGS = FunctionSettings
_NAME = "icmformer"
_OLDEST, _SHAPES = (2, 3), (2, 60)
_ADDRESS = "set CVAT_HOST (--cvat) to the address that opens CVAT, as in http://localhost:8080"
_DEPLOY = "serverless/deploy.sh cpu|gpu deploys it (docs/cvat.md)"
_LOG = "docker logs nuclio-nuclio-icmformer, or kubectl logs"
_LOG_SAYS = f"its log says why: {_LOG}"
_HANGING = f"all workers are busy, or it hangs: {_LOG}; {_DEPLOY}"
_NEW_TOKEN = "make a personal access token on CVAT's profile page and set CVAT_ACCESS_TOKEN"
_ANSWER_SECONDS = 30.0
"""Patience with the function: longer than a click waits for a free worker (20 s), shorter than CVAT's own (120 s)."""
_CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
_CAUSES: dict[type[Exception], str] = {
    socket.gaierror: "cannot be found: the name does not resolve",
    ConnectionRefusedError: "refuses connections: nothing listens there",
    TimeoutError: "does not answer in time",
    ssl.SSLCertVerificationError: "has a certificate that is not trusted here; SSL_CERT_FILE can name its issuer's",
    ssl.SSLError: "does not speak https",
    http.client.HTTPException: "does not speak http",
}
_UNREACHABLE = re.compile(r"host='([^']*)', port=(\d+)")
"""Of the words of CVAT's HTTP library for a function that cannot be reached."""


def check(report: Report, environment: Mapping[str, str]) -> None:
    """Checks CVAT, where its address is given."""
    cvat = _Cvat(environment)
    report.check("cvat settings", cvat.settings, advice="correct or unset that variable; docs/cvat.md has them all")
    if not cvat.url:
        advice = "to check it set CVAT_HOST, or give --cvat URL"
        return report.check("cvat", lambda: skipped("no address given", advice))
    ask = partial(report.check, seconds=NETWORK_SECONDS, secrets=[cvat.secret])
    up = "is CVAT still up?"
    ask("cvat", cvat.reached, advice=f"start it, or {_ADDRESS}")
    report.check("cvat version", cvat.version_and_form, ["cvat settings", "cvat"])
    ask("cvat token", cvat.token, ["cvat"], _NEW_TOKEN)
    ask("cvat function", cvat.function, ["cvat token"], up)
    ask("cvat answer", cvat.answer, ["cvat function"], up, seconds=_ANSWER_SECONDS + NETWORK_SECONDS)


class _Cvat:
    """CVAT as its checks see it: what one of them was told, the next goes on with."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        bare = environment.get("CVAT_HOST", "").strip().rstrip("/")
        self.url = bare if "://" in bare or not bare else f"https://{bare}"  # as cvat-cli takes it
        self.secret = environment.get("CVAT_ACCESS_TOKEN", "").strip()
        self._version = self._function = ""

    @cached_property
    def _own(self) -> FunctionSettings:
        return FunctionSettings.from_environment(without_shared(self._environment))

    def _ask(self, path: str, seconds: float = 5.0, body: Any = None) -> tuple[int, Any]:
        """Status and content of an answer to the token's user."""
        return _ask(f"{self.url}{path}", {"Authorization": f"Bearer {self.secret}"}, seconds, body)[:2]

    def settings(self) -> Finding:
        parts = ", one for each part of a mask" if self._own.parts else ""
        return ok(f"replies in the form {self._own.reply!r}{parts}")

    def reached(self) -> Finding:
        status, about, headers = _ask(f"{self.url}/api/server/about", {}, 5.0, None)
        if status in (301, 302, 307, 308) and headers["Location"]:
            return failed(f"{self.url} redirects to {headers['Location'].partition('?')[0]}", _ADDRESS)
        if status >= 500:
            return failed(f"{self.url} answers {status}: CVAT is starting, or down", "docker logs cvat_server")
        if status != 200 or not isinstance(about, dict) or "version" not in about:
            return failed(
                f"what answers at {self.url} (status {status}) is not CVAT",
                f"{_ADDRESS}; its host must be the CVAT_HOST that CVAT was started with",
            )
        self._version = str(about["version"])
        return ok(f"{self._version} at {self.url}", version=self._version, **clock_facts(headers["Date"], time.time()))

    def version_and_form(self) -> Finding:
        reply, text = self._own.reply, f"CVAT {self._version}, replies in the form {self._own.reply!r}"
        found = re.match(r"(\d+)\.(\d+)", self._version)
        if not found:
            return warning(
                f"{text}: no version that can be compared", "the form must be `mask` before 2.60, else `shapes`"
            )
        version = int(found[1]), int(found[2])
        if version < _OLDEST:
            return failed(f"{text}: too old", "update CVAT to 2.3 or later; 2.60 or later is best")
        if version < _SHAPES and reply != "mask":
            return failed(
                f"{text}, which CVAT understands from 2.60 on",
                "deploy with --env ICMFORMER_CVAT_REPLY=mask and set it here too, or update CVAT",
            )
        if version >= _SHAPES and reply == "mask":
            return warning(
                f"{text}: works, but replies are many times larger", "deploy with ICMFORMER_CVAT_REPLY=shapes, or unset"
            )
        return ok(text)

    def token(self) -> Finding:
        if not self.secret:
            return skipped("none, so nothing that needs a login is checked", _NEW_TOKEN)
        if any(not 32 < ord(c) < 127 for c in self.secret):
            raise ConfigError("CVAT_ACCESS_TOKEN holds blanks or other characters that no token has")
        status, _ = self._ask("/api/users/self")
        if status in (401, 403):
            return failed(f"CVAT does not take CVAT_ACCESS_TOKEN (status {status})", _NEW_TOKEN)
        if status != 200:
            raise NoAnswerError(f"CVAT answered {status} to /api/users/self")
        return ok("valid")

    def function(self) -> Finding:
        if not self.secret:
            return skipped("unchecked without a token")
        status, listed = self._ask("/api/lambda/functions")
        deploy = f"{_DEPLOY}; nuctl get function must say `ready`"
        if status == 403:
            return failed(
                "this user may not list functions (status 403)", "use the token of a worker or an administrator"
            )
        if status != 200 or not isinstance(listed, list):
            return failed(
                f"CVAT cannot list functions (status {status}): its Nuclio does not answer",
                "start CVAT with components/serverless/docker-compose.serverless.yml, see docs/cvat.md",
            )
        interactors = [f for f in listed if isinstance(f, dict) and f.get("kind") == "interactor"]
        ours = next((f for f in interactors if _NAME in f"{f.get('id')} {f.get('name')}".lower()), None)
        if ours is None:
            others = ", ".join(sorted(str(f.get("name")) for f in interactors)[:5]) or "none"
            return failed(f"iCMFormer is not among CVAT's interactors (there are: {others})", deploy)
        version = ours.get("version")
        if isinstance(version, int) and version < 2:
            return failed(f"deployed with annotation version {version}: CVAT's button for it is grey", deploy)
        self._function = str(ours.get("id"))
        return ok(f"{ours.get('name')} is deployed as {self._function}")

    def answer(self) -> Finding:
        """Has CVAT ask the function: its list of functions goes on to name one that is long dead."""
        if not self.secret:
            return skipped("unchecked without a token")
        job = self._job()
        if job is None:
            return skipped(
                "this user sees no job with photos, without which CVAT asks no function",
                "make a task of one photo, or use the token of a user who has a job",
            )
        # Without points the function looks at no image. CVAT sends the frame all the same, as it does with a click.
        body = {"job": job["id"], "frame": job["start_frame"], "pos_points": [], "neg_points": [], "obj_bbox": []}
        try:
            status, value = self._ask(f"/api/lambda/functions/{quote(self._function)}", _ANSWER_SECONDS, body)
        except NoAnswerError as error:
            return failed(f"no answer of the function within {_ANSWER_SECONDS:g} s: {error}", _HANGING)
        return _alive(status, value)

    def _job(self) -> dict[str, Any] | None:
        """A job with photos that the token's user may see."""
        _, found = self._ask("/api/jobs?page_size=20")
        jobs = found.get("results") if isinstance(found, dict) else None
        for job in jobs if isinstance(jobs, list) else []:
            if not (isinstance(job, dict) and {"id", "start_frame"} <= job.keys()):
                continue
            # a ground truth job holds some frames of its span alone; before 2.5 there were none, and no `type`
            if job.get("type", "annotation") == "annotation" and job.get("dimension", "2d") == "2d":
                return job
        return None


def _alive(status: int, value: Any) -> Finding:
    """What CVAT's answer to a request without points says of the function."""
    if status == 200 and isinstance(value, dict) and {"shapes", "mask"} & value.keys():
        form = "mask" if "mask" in value else "shapes"
        return ok(f"the function answers, in the form {form!r}", reply=form)
    if status == 403:
        return skipped("this user may not call functions (status 403)", "use the token of a user who annotates")
    told = str(value)[:400]
    if "for url" in told:  # it reached the function, which answered with an error
        if status == 503:
            return failed("the function has no model, or all its workers are busy (status 503)", _LOG_SAYS)
        if status == 400:
            text = "the function does not take the photo (status 400): it is over maxRequestBodySize, or no photo"
            return failed(text, _LOG_SAYS)
        return failed(f"the function fails (status {status})", _LOG_SAYS)
    if status == 503:  # a ConnectionError in CVAT
        place = _UNREACHABLE.search(told)
        return failed(
            f"CVAT cannot reach the function{f' at {place[1]}:{place[2]}' if place else ''}, which clicks show as "
            "503 ... Connection refused: it is down, or it has had another port since the machine was restarted "
            "(cvat-ai/cvat#10307)",
            "`docker ps` shows whether nuclio-nuclio-icmformer runs and at which port; deploy it again by "
            "serverless/deploy.sh or nuctl; --port N, or `port` in the function's file, keeps it (docs/cvat.md)",
        )
    if status == 504:  # CVAT's own time-out
        return failed("the function does not answer within CVAT's own time-out (status 504)", _HANGING)
    return failed(f"CVAT does not ask the function (status {status}: {told})", "docker logs cvat_server")


class NoAnswerError(IcmformerError, ConnectionError):
    """A server that cannot be asked."""


def _ask(url: str, headers: Mapping[str, str], seconds: float, body: Any) -> tuple[int, Any, Message]:
    """One GET, or with a body one POST of JSON, straight to a server; redirects are not followed.

    Returns:
        Status, content (what it is as JSON, else its text; at most 4 MB) and headers.

    Raises:
        NoAnswerError: No address, no connection, or no HTTP there; the text has the cause, and no header.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in _CONNECTIONS and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        right = False
    if not right or any(not 32 < ord(c) < 127 for c in url):
        raise NoAnswerError("that is no address like https://cvat.example.org, without user name and blanks")
    connection = _CONNECTIONS[parts.scheme](parts.netloc, timeout=seconds)
    sent = {"Accept": "application/json, */*", "Content-Type": "application/json", **headers}
    try:
        path = parts._replace(scheme="", netloc="").geturl()
        connection.request("GET" if body is None else "POST", path, body and json.dumps(body), sent)
        reply = connection.getresponse()
        content = reply.read(4 << 20).decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = next((text for kind, text in _CAUSES.items() if isinstance(error, kind)), "cannot be reached")
        detail = getattr(error, "strerror", None) or type(error).__name__  # not its text, which may quote a header
        raise NoAnswerError(f"{parts.scheme}://{parts.netloc} {cause} ({detail})") from error
    finally:
        connection.close()
    try:
        return reply.status, json.loads(content), reply.headers
    except ValueError:
        return reply.status, content, reply.headers
