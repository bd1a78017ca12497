"""What `icmformer doctor` says of Label Studio: address, token, a project's labelling config, its connection to us."""

from __future__ import annotations

import json
import time
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from icmformer.diagnosis import Answer, Check, Fact, Options, Outcome, ask, clock_offset, failed, ok, skipped, warning
from icmformer.diagnosis.checks import NETWORK_SECONDS
from icmformer.errors import ConfigError
from icmformer.serving.errors import FetchError, RequestError
from icmformer.settings import variables, without_shared
from ls_backend.addresses import shown
from ls_backend.labelling_config import DRAWING, ImageTag, drawn_on, label_names, page_of, read_config
from ls_backend.settings import BackendSettings

if TYPE_CHECKING:
    from ls_backend.fetch import LabelStudio

VARIABLES = frozenset(variables(BackendSettings))
"""The backend's settings."""
_SETTINGS, _REACHED, _TOKEN = "label studio settings", "label studio", "label studio token"
_PROJECT, _CONFIG, _BACKEND = "label studio project", "labelling config", "ml backend"
_INTERACTIVE = "interactive preannotations"
_OURS = "icmformer "
_SMART = {"keypointlabels", "keypoint", "rectanglelabels", "rectangle"}
_ADDRESS = "set LABEL_STUDIO_URL (--label-studio) to the address that opens Label Studio, port and sub-path included"
_NEW_TOKEN = "set LABEL_STUDIO_API_KEY to a token from Label Studio's Account & Settings"


def checks(options: Options) -> list[Check]:
    """The checks of Label Studio; one alone where no address is given."""
    environment = dict(options.environment)
    if options.label_studio:
        environment["LABEL_STUDIO_URL"] = options.label_studio
    studio = _Studio(environment, options.project)
    listed = [
        Check(_SETTINGS, studio.check_settings, advice="mend or unset that variable; docs/label_studio.md has them all")
    ]
    if not any(environment.get(name) for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST")):
        text = "no address given"
        advice = "to check it set LABEL_STUDIO_URL, or give --label-studio URL"
        asked = options.project is not None
        outcome = failed(text, advice) if asked else skipped(text, advice)
        return [*listed, Check(_REACHED, lambda: outcome)]
    net: dict[str, Any] = {
        "seconds": NETWORK_SECONDS,
        "secrets": tuple(environment.get(name, "") for name in ("LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS")),
    }
    listed += [
        Check(_REACHED, studio.check_reached, (_SETTINGS,), advice=f"start it, or {_ADDRESS}", **net),
        Check(_TOKEN, studio.check_token, (_REACHED,), advice=_NEW_TOKEN, **net),
    ]
    if options.project is None:
        advice = "with --project ID a project's labelling config and connection are checked too"
        return [*listed, Check(_PROJECT, lambda: skipped("none named", advice))]
    number = "give --project the number in the project's address, and the token of a user who may see it"
    return [
        *listed,
        Check(_PROJECT, studio.check_project, (_TOKEN,), advice=number, **net),
        Check(_CONFIG, studio.check_config, (_PROJECT,), advice="correct it in Settings, Labeling Interface", **net),
        Check(_BACKEND, studio.check_backend, (_PROJECT,), advice=number, **net),
        Check(_INTERACTIVE, studio.check_interactive, (_BACKEND,), **net),
    ]


class _Studio:
    """Label Studio as its checks see it: what one of them fetched, the next looks into."""

    def __init__(self, environment: dict[str, str], project: int | None) -> None:
        self._environment, self._number = environment, project
        self._project: dict[str, Any] = {}
        self._backends: list[dict[str, Any]] = []

    @cached_property
    def _own(self) -> BackendSettings:
        return BackendSettings.from_environment(without_shared(self._environment))

    @cached_property
    def _studio(self) -> LabelStudio:
        """What the backend itself fetches with: its tokens, redirects and limits are those that are checked."""
        studio: LabelStudio = _fetching().LabelStudio.from_settings(self._own, NETWORK_SECONDS, 16 << 20)
        return studio

    def _json(self, path: str) -> Any:
        try:
            return json.loads(self._studio.fetch(self._studio.absolute(path)))
        except ValueError as error:
            if isinstance(error, RequestError):
                raise
            raise FetchError(f"{path.partition('?')[0]} answered with something that is not JSON") from error

    def check_settings(self) -> Outcome:
        own = self._own
        text = "as they should be" if own.url else "nothing wrong in them"
        faults = [fault for scheme in ("http", "https") if (fault := own.proxies.fault(scheme))]
        if faults:
            return warning(f"images from public hosts do not come: {faults[0]}; SOCKS is not known", "mend or unset it")
        proxies = {shown(proxy) for proxy in (own.proxies.http, own.proxies.https) if proxy}
        if proxies:
            text += f"; images from public hosts come through {' and '.join(sorted(proxies))}, others directly"
        return ok(text)

    @cached_property
    def _proxy(self) -> str | None:
        """The proxy to Label Studio; one that is not found has none."""
        try:
            return self._studio.policy.resolve(self._own.url).proxy
        except RequestError:
            return None

    def _ask(self, path: str) -> Answer:
        """What Label Studio says to somebody without a token, asked the way that images are."""
        url = self._own.url + path
        if self._proxy is None:
            return ask(url)
        asked = time.time()
        deadline = time.monotonic() + NETWORK_SECONDS
        reply = _fetching().request(url, self._studio.policy, deadline=deadline, limit=4 << 20)
        offset = clock_offset(reply.date, (asked + time.time()) / 2)
        return Answer(reply.status, reply.content, reply.location, offset)

    def check_reached(self) -> Outcome:
        url = self._own.url
        # Below a wrong sub-path Label Studio still tells its version and health; not who one is.
        anybody = self._ask("/api/current-user/whoami")
        if anybody.status in (301, 302, 307, 308) and anybody.location:
            return failed(f"{url} redirects to {anybody.location.partition('?')[0]}", _ADDRESS)
        if anybody.status >= 500:
            return failed(f"{url} answers {anybody.status}: Label Studio or what is before it is down", "see its log")
        said = self._ask("/api/version/")
        about = said.json() if said.status == 200 else None
        if not isinstance(about, dict) or "release" not in about:
            return failed(f"what answers at {url} (status {said.status}) is not Label Studio", _ADDRESS)
        version = str(about["release"])
        if anybody.status not in (200, 401, 403):
            return failed(f"Label Studio {version} has nothing at {url} (status {anybody.status})", _ADDRESS)
        facts: dict[str, Fact] = {"version": version}
        if said.clock_offset is not None:
            facts["clock_offset_s"] = said.clock_offset
        way = f", through the proxy {shown(self._proxy)}" if self._proxy else ""
        return ok(f"{version} at {url}{way}", **facts)

    def check_token(self) -> Outcome:
        if not self._own.api_key:
            text = "none: only public images can be fetched"
            return failed(text, _NEW_TOKEN) if self._number is not None else warning(text, _NEW_TOKEN)
        self._json("/api/current-user/whoami")
        kind = "personal access token" if self._own.api_key.count(".") == 2 else "legacy token"
        return ok(f"a valid {kind}", kind=kind)

    def check_project(self) -> Outcome:
        try:
            self._project = _mapping(self._json(f"/api/projects/{self._number}/"))
        except FetchError as error:
            raise FetchError(f"project {self._number} cannot be read: {str(error).partition(': ')[0]}") from error
        return ok(f"{self._number}, {str(self._project.get('title', ''))[:80]!r}")

    def check_config(self) -> Outcome:
        text = str(self._project.get("label_config") or "")
        images = read_config(text)
        faults = _without_image(text, [*images]) or [f for image in images.values() for f in _faults(text, image)]
        if faults:
            told, advice = faults[0]
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            return failed(told + more, f"Settings, Labeling Interface, Code: {advice}")
        kinds = sorted({output.kind for image in images.values() for output in image.outputs})
        return ok(f"smart tools and {', '.join(kinds)} on {', '.join(images)}")

    def check_backend(self) -> Outcome:
        listed = self._json(f"/api/ml?project={self._number}")
        self._backends = [_mapping(backend) for backend in listed] if isinstance(listed, list) else []
        if not self._backends:
            return failed(
                "no model is connected to the project",
                "Settings, Model, Connect Model: the backend's address as Label Studio reaches it, interactive on",
            )
        ours = [b for b in self._backends if str(b.get("model_version") or "").startswith(_OURS)]
        self._backends = ours or self._backends
        connected = [b for b in self._backends if b.get("state") not in ("DI", "ER")]
        if not connected:
            worst = self._backends[0]
            said = str(worst.get("error_message") or "").strip()
            return failed(
                f"{worst.get('url')}: {worst.get('readable_state') or worst.get('state')}{said and f', {said}'}",
                "start the backend; from Label Studio's own machine or container its address must answer /health "
                "(docs/label_studio.md says what hinders it)",
            )
        self._backends = connected
        text = f"{connected[0].get('url')}, {connected[0].get('readable_state') or connected[0].get('state')}"
        if not ours:
            return warning(
                f"{text}; its model is {connected[0].get('model_version') or 'unnamed'!s}, which is not ours",
                "if it should be: Settings, Model, Edit: the address of this backend (port 9090)",
            )
        return ok(f"{text}, {connected[0].get('model_version')}")

    def check_interactive(self) -> Outcome:
        if not any(backend.get("is_interactive") for backend in self._backends):
            return failed(
                "off: clicks with the smart tool do not reach the backend",
                "Settings, Model, the model's menu, Edit: switch on Interactive preannotations",
            )
        return ok("on")


def _fetching() -> ModuleType:
    """What the backend fetches with; the doctor is there without the backend's packages, too."""
    try:
        return import_module("ls_backend.fetch")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed, which the backend fetches with: pip install '.[label-studio]'"
        ) from error


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _without_image(config: str, images: list[str]) -> list[tuple[str, str]]:
    """The controls that do not say which image they are for, each with what to do."""
    return [
        (f"{tag.get('name')!r} has no toName: Label Studio's page stays empty", f'add toName="{images[0]}" to it')
        for tag in page_of(config).tags()
        if tag.kind in _SMART | DRAWING and not tag.get("toname")
    ]


def _faults(config: str, image: ImageTag) -> list[tuple[str, str]]:
    """What an image of a config, which has been read, lacks, each with what to do."""
    found = []
    controls = [tag for tag in page_of(config).tags() if tag.kind in _SMART | DRAWING]
    if not image.outputs:
        found.append(
            (
                f"nothing to answer with: no BrushLabels, PolygonLabels, Brush or Polygon draws on {image.name!r}",
                f'add <BrushLabels name="mask" toName="{image.name}"> with the same labels as the smart tool',
            )
        )
    tools = [tag for tag in controls if tag.kind in _SMART and image.name in drawn_on(tag)]
    smart = [tag for tag in tools if "true" in (tag.get("smart"), tag.get("smartonly"))]
    if not smart:
        found.append(
            (
                f'no smart tool: no KeyPointLabels or RectangleLabels on {image.name!r} has smart="true"',
                f'add <KeyPointLabels name="click" toName="{image.name}" smart="true"> with the labels, or '
                'smart="true" to the one that is there',
            )
        )
    known = {label for output in image.outputs for label in output.labels}
    told = not any(output.open for output in image.outputs)  # labels from the task are not known here
    for tool in smart if image.outputs and told else ():
        if missing := sorted(set(label_names(tool)) - known):
            found.append(
                (
                    f"the smart tool {tool.get('name')!r} has labels that nothing answers with: {', '.join(missing)}",
                    f"give {' or '.join(output.name for output in image.outputs)} the same labels",
                )
            )
    return found
