"""What `icmformer doctor` says of CVAT: address, version, form of replies, token; is the function there, and alive?"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any
from urllib.parse import quote

from icmformer.diagnosis import Answer, Check, Fact, NoAnswerError, Options, Outcome, ask, failed, ok, skipped, warning
from icmformer.diagnosis.checks import NETWORK_SECONDS
from icmformer.errors import ConfigError
from icmformer.settings import variables, without_shared
from serverless.settings import FunctionSettings

VARIABLES = frozenset(variables(FunctionSettings))
"""The function's settings."""
_SETTINGS, _REACHED, _VERSION, _TOKEN, _FUNCTION, _ANSWER = (
    "cvat settings",
    "cvat",
    "cvat version",
    "cvat token",
    "cvat function",
    "cvat answer",
)
_NAME = "icmformer"
_OLDEST, _SHAPES = (2, 3), (2, 60)
_ADDRESS = "set CVAT_HOST (--cvat) to the address that opens CVAT, as in http://localhost:8080"
_DEPLOY = "serverless/deploy.sh cpu|gpu deploys it (docs/cvat.md)"
_LOG = "its log says why: docker logs nuclio-nuclio-icmformer, or kubectl logs"
_ANSWER_SECONDS = 30.0
"""Patience with the function: longer than a click waits for a free worker (20 s), shorter than CVAT's own (120 s)."""
_UNREACHABLE = re.compile(r"host='([^']*)', port=(\d+)")
"""Of the words of CVAT's HTTP library for a function that cannot be reached."""
_NEW_TOKEN = "make a personal access token on CVAT's profile page and set CVAT_ACCESS_TOKEN"


def checks(options: Options) -> list[Check]:
    """The checks of CVAT; one alone where no address is given."""
    environment = dict(options.environment)
    cvat = _Cvat(environment, options.cvat or environment.get("CVAT_HOST", ""))
    listed = [Check(_SETTINGS, cvat.check_settings, advice="mend or unset that variable; docs/cvat.md has them all")]
    if not cvat.url:
        return [
            *listed,
            Check(_REACHED, lambda: skipped("no address given", "to check it set CVAT_HOST, or give --cvat URL")),
        ]
    net: dict[str, Any] = {"seconds": NETWORK_SECONDS, "secrets": (environment.get("CVAT_ACCESS_TOKEN", "").strip(),)}
    return [
        *listed,
        Check(_REACHED, cvat.check_reached, advice=f"start it, or {_ADDRESS}", **net),
        Check(_VERSION, cvat.check_version, (_SETTINGS, _REACHED)),
        Check(_TOKEN, cvat.check_token, (_REACHED,), advice=_NEW_TOKEN, **net),
        Check(_FUNCTION, cvat.check_function, (_TOKEN,), advice="is CVAT still up?", **net),
        Check(
            _ANSWER,
            cvat.check_answer,
            (_FUNCTION,),
            advice="is CVAT still up?",
            **{**net, "seconds": _ANSWER_SECONDS + NETWORK_SECONDS},
        ),
    ]


class _Cvat:
    """CVAT as its checks see it."""

    def __init__(self, environment: dict[str, str], url: str) -> None:
        self._environment = environment
        bare = url.strip().rstrip("/")
        self.url = bare if "://" in bare or not bare else f"https://{bare}"  # as cvat-cli takes it
        self._token = environment.get("CVAT_ACCESS_TOKEN", "").strip()
        self._version = self._function = ""

    @cached_property
    def _own(self) -> FunctionSettings:
        return FunctionSettings.from_environment(without_shared(self._environment))

    def _ask(self, path: str, token: bool = True, seconds: float = 5.0, body: Any = None) -> Answer:
        headers = {"Authorization": f"Bearer {self._token}"} if token else {}
        return ask(f"{self.url}{path}", headers, seconds, body)

    def check_settings(self) -> Outcome:
        parts = ", one for each part of a mask" if self._own.parts else ""
        return ok(f"replies in the form {self._own.reply!r}{parts}")

    def check_reached(self) -> Outcome:
        answer = self._ask("/api/server/about", token=False)
        about = answer.json()
        shown = self.url
        if answer.status in (301, 302, 307, 308) and answer.location:
            return failed(f"{shown} redirects to {answer.location.partition('?')[0]}", _ADDRESS)
        if answer.status >= 500:
            return failed(f"{shown} answers {answer.status}: CVAT is starting, or down", "docker logs cvat_server")
        if answer.status != 200 or not isinstance(about, dict) or "version" not in about:
            return failed(
                f"what answers at {shown} (status {answer.status}) is not CVAT",
                f"{_ADDRESS}; its host must be the CVAT_HOST that CVAT was started with",
            )
        self._version = str(about["version"])
        facts: dict[str, Fact] = {"version": self._version}
        if answer.clock_offset is not None:
            facts["clock_offset_s"] = answer.clock_offset
        return ok(f"{self._version} at {shown}", **facts)

    def check_version(self) -> Outcome:
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

    def check_token(self) -> Outcome:
        if not self._token:
            return skipped("none, so nothing that needs a login is checked", _NEW_TOKEN)
        if any(not 32 < ord(c) < 127 for c in self._token):
            raise ConfigError("CVAT_ACCESS_TOKEN holds blanks or other characters that no token has")
        answer = self._ask("/api/users/self")
        if answer.status in (401, 403):
            return failed(f"CVAT does not take CVAT_ACCESS_TOKEN (status {answer.status})", _NEW_TOKEN)
        if answer.status != 200:
            raise NoAnswerError(f"CVAT answered {answer.status} to /api/users/self")
        return ok("valid")

    def check_function(self) -> Outcome:
        if not self._token:
            return skipped("unchecked without a token")
        answer = self._ask("/api/lambda/functions")
        listed = answer.json()
        deploy = f"{_DEPLOY}; nuctl get function must say `ready`"
        if answer.status == 403:
            return failed(
                "this user may not list functions (status 403)", "use the token of a worker or an administrator"
            )
        if answer.status != 200 or not isinstance(listed, list):
            return failed(
                f"CVAT cannot list functions (status {answer.status}): its Nuclio does not answer",
                "start CVAT with components/serverless/docker-compose.serverless.yml, see docs/cvat.md",
            )
        interactors = [f for f in listed if isinstance(f, dict) and f.get("kind") == "interactor"]
        ours = [f for f in interactors if _NAME in f"{f.get('id')} {f.get('name')}".lower()]
        if not ours:
            others = ", ".join(sorted(str(f.get("name")) for f in interactors)[:5]) or "none"
            return failed(f"iCMFormer is not among CVAT's interactors (there are: {others})", deploy)
        version = ours[0].get("version")
        if isinstance(version, int) and version < 2:
            return failed(f"deployed with annotation version {version}: CVAT's button for it is grey", deploy)
        self._function = str(ours[0].get("id"))
        return ok(f"{ours[0].get('name')} is deployed as {self._function}")

    def check_answer(self) -> Outcome:
        """Has CVAT ask the function: its list of functions goes on to name one that is long dead."""
        if not self._token:
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
            answer = self._ask(f"/api/lambda/functions/{quote(self._function)}", True, _ANSWER_SECONDS, body)
        except NoAnswerError as error:
            return failed(f"no answer of the function within {_ANSWER_SECONDS:g} s: {error}", _hanging())
        return self._alive(answer)

    def _job(self) -> dict[str, Any] | None:
        """A job with photos that the token's user may see."""
        found = self._ask("/api/jobs?page_size=20").json()
        jobs = found.get("results") if isinstance(found, dict) else None
        for job in jobs if isinstance(jobs, list) else []:
            if not (isinstance(job, dict) and {"id", "start_frame"} <= job.keys()):
                continue
            # a ground truth job holds some frames of its span alone; before 2.5 there were none, and no `type`
            if job.get("type", "annotation") == "annotation" and job.get("dimension", "2d") == "2d":
                return job
        return None

    def _alive(self, answer: Answer) -> Outcome:
        """What CVAT's answer to a request without points says of the function."""
        value, status = answer.json(), answer.status
        if status == 200 and isinstance(value, dict) and {"shapes", "mask"} & value.keys():
            form = "mask" if "mask" in value else "shapes"
            return ok(f"the function answers, in the form {form!r}", reply=form)
        told = value if isinstance(value, str) else answer.content[:300].decode(errors="replace")
        if status == 403:
            return skipped("this user may not call functions (status 403)", "use the token of a user who annotates")
        if status == 503 and "for url" not in told:  # a ConnectionError in CVAT
            place = _UNREACHABLE.search(told)
            return failed(
                f"CVAT cannot reach the function{f' at {place[1]}:{place[2]}' if place else ''}, which clicks show as "
                "503 ... Connection refused: it is down, or it has had another port since the machine was restarted "
                "(cvat-ai/cvat#10307)",
                "`docker ps` shows whether nuclio-nuclio-icmformer runs and at which port; deploy it again by "
                "serverless/deploy.sh or nuctl; --port N, or `port` in the function's file, keeps it (docs/cvat.md)",
            )
        if status == 504 and "for url" not in told:  # CVAT's own time-out
            return failed("the function does not answer within CVAT's own time-out (status 504)", _hanging())
        if "for url" not in told:
            return failed(f"CVAT does not ask the function (status {status}: {told})", "docker logs cvat_server")
        if status == 503:
            return failed("the function has no model, or all its workers are busy (status 503)", _LOG)
        if status == 400:
            return failed(
                "the function does not take the photo (status 400): it is over maxRequestBodySize, or no photo", _LOG
            )
        return failed(f"the function fails (status {status})", _LOG)


def _hanging() -> str:
    return f"all workers are busy, or it hangs: {_LOG.removeprefix('its log says why: ')}; {_DEPLOY}"
