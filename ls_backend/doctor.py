"""What `icmformer doctor` says of Label Studio: address, token, a project's labelling config, its connection to us."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from icmformer.diagnosis.machine import clock_facts
from icmformer.diagnosis.report import NETWORK_SECONDS, Finding, Report, failed, ok, skipped, warning
from icmformer.errors import ConfigError
from icmformer.fetching.addresses import shown
from icmformer.serving.errors import FetchError
from icmformer.settings import without_shared

from .labelling_config import DRAWING, ImageTag, drawn_on, label_names, page_of, read_config
from .settings import BackendSettings

if TYPE_CHECKING:
    from icmformer.fetching.http import Reply
    from icmformer.fetching.label_studio import LabelStudio

SETTINGS = BackendSettings
_OURS = "icmformer "
_SMART = {"keypointlabels", "keypoint", "rectanglelabels", "rectangle"}
_ADDRESS = "set LABEL_STUDIO_URL (--label-studio) to the address that opens Label Studio, port and sub-path included"
_NEW_TOKEN = "set LABEL_STUDIO_API_KEY to a token from Label Studio's Account & Settings"


def check(report: Report, environment: Mapping[str, str], project: int | None) -> None:
    """Checks Label Studio, where its address is given, and a project of it, by number."""
    studio = _Studio(environment, project)
    report.check(
        "label studio settings",
        studio.settings,
        advice="correct or unset that variable; docs/label_studio.md has them all",
    )
    if not (environment.get("LABEL_STUDIO_URL") or environment.get("LABEL_STUDIO_HOST")):
        without = skipped if project is None else failed
        advice = "to check it set LABEL_STUDIO_URL, or give --label-studio URL"
        return report.check("label studio", lambda: without("no address given", advice))
    secrets = [environment.get(name, "") for name in ("LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS")]
    ask = partial(report.check, seconds=NETWORK_SECONDS, secrets=secrets)
    ask("label studio", studio.reached, ["label studio settings"], f"start it, or {_ADDRESS}")
    ask("label studio token", studio.token, ["label studio"], _NEW_TOKEN)
    if project is None:
        advice = "with --project ID a project's labelling config and connection are checked too"
        return report.check("label studio project", lambda: skipped("none named", advice))
    number = "give --project the number in the project's address, and the token of a user who may see it"
    ask("label studio project", studio.project, ["label studio token"], number)
    ask("labelling config", studio.config, ["label studio project"], "correct it in Settings, Labeling Interface")
    ask("ml backend", studio.backend, ["label studio project"], number)
    ask("interactive preannotations", studio.interactive, ["ml backend"])


class _Studio:
    """Label Studio as its checks see it: what one of them fetched, the next looks into."""

    def __init__(self, environment: Mapping[str, str], number: int | None) -> None:
        self._environment, self._number = environment, number
        self._project: dict[str, Any] = {}
        self._backends: list[dict[str, Any]] = []

    @cached_property
    def _own(self) -> BackendSettings:
        return BackendSettings.from_environment(without_shared(self._environment))

    @cached_property
    def _studio(self) -> LabelStudio:
        """What the backend itself fetches with: its tokens, proxies, redirects and limits are those that are checked.

        Imported here, as doctor is there without the backend's packages, too.
        """
        try:
            from icmformer.fetching.label_studio import LabelStudio
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{error.name} is not installed, which the backend fetches with: pip install 'icmformer[label-studio]'"
            ) from error
        return LabelStudio.from_settings(self._own, 2 * NETWORK_SECONDS, 16 << 20)  # the check ends before

    def _ask(self, path: str) -> Reply:
        """What Label Studio says to somebody without a token."""
        policy = self._studio.policy
        from icmformer.fetching.http import request

        return request(self._own.url + path, policy, deadline=time.monotonic() + 2 * NETWORK_SECONDS, limit=4 << 20)

    def _json(self, path: str) -> Any:
        """What it says to the token's user."""
        content = self._studio.fetch(self._studio.absolute(path))
        try:
            return json.loads(content)
        except ValueError as error:
            raise FetchError(f"{path.partition('?')[0]} answered with something that is not JSON") from error

    def settings(self) -> Finding:
        own = self._own
        text = "as they should be" if own.url else "nothing wrong in them"
        faults = [fault for scheme in ("http", "https") if (fault := own.proxies.fault(scheme))]
        if faults:
            return warning(f"images from public hosts do not come: {faults[0]}; SOCKS is not known", "mend or unset it")
        proxies = {shown(proxy) for proxy in (own.proxies.http, own.proxies.https) if proxy}
        if proxies:
            text += f"; images from public hosts come through {' and '.join(sorted(proxies))}, others directly"
        return ok(text)

    def reached(self) -> Finding:
        url = self._own.url
        # Below a wrong sub-path Label Studio still tells its version and health; not who one is.
        try:
            anybody = self._ask("/api/current-user/whoami")
        except FetchError as error:
            if "certificate" not in str(error).lower():
                raise
            return failed(str(error), "SSL_CERT_FILE can name the certificate of its issuer")
        if anybody.status in (301, 302, 307, 308) and anybody.location:
            return failed(f"{url} redirects to {anybody.location.partition('?')[0]}", _ADDRESS)
        if anybody.status >= 500:
            return failed(f"{url} answers {anybody.status}: Label Studio or what is before it is down", "see its log")
        said = self._ask("/api/version/")
        try:
            version = str(json.loads(said.content)["release"]) if said.status == 200 else ""
        except (ValueError, TypeError, KeyError):
            version = ""
        if not version:
            return failed(f"what answers at {url} (status {said.status}) is not Label Studio", _ADDRESS)
        if anybody.status not in (200, 401, 403):
            return failed(f"Label Studio {version} has nothing at {url} (status {anybody.status})", _ADDRESS)
        proxy = self._studio.policy.resolve(url).proxy
        way = f", through the proxy {shown(proxy)}" if proxy else ""
        return ok(f"{version} at {url}{way}", version=version, **clock_facts(said.date, time.time()))

    def token(self) -> Finding:
        if not self._own.api_key:
            without = warning if self._number is None else failed
            return without("none: only public images can be fetched", _NEW_TOKEN)
        self._json("/api/current-user/whoami")
        kind = "personal access token" if self._own.api_key.count(".") == 2 else "legacy token"
        return ok(f"a valid {kind}", kind=kind)

    def project(self) -> Finding:
        try:
            self._project = _mapping(self._json(f"/api/projects/{self._number}/"))
        except FetchError as error:
            raise FetchError(f"project {self._number} cannot be read: {str(error).partition(': ')[0]}") from error
        return ok(f"{self._number}, {str(self._project.get('title', ''))[:80]!r}")

    def config(self) -> Finding:
        text = str(self._project.get("label_config") or "")
        images = read_config(text)
        faults = list(_faults(text, images))
        if faults:
            told, advice = faults[0]
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            return failed(told + more, f"Settings, Labeling Interface, Code: {advice}")
        kinds = sorted({output.kind for image in images.values() for output in image.outputs})
        return ok(f"smart tools and {', '.join(kinds)} on {', '.join(images)}")

    def backend(self) -> Finding:
        listed = self._json(f"/api/ml?project={self._number}")
        self._backends = [_mapping(backend) for backend in listed] if isinstance(listed, list) else []
        if not self._backends:
            return failed(
                "no model is connected to the project",
                "Settings, Model, Connect Model: the backend's address as Label Studio reaches it, interactive on",
            )
        ours = [b for b in self._backends if str(b.get("model_version") or "").startswith(_OURS)]
        listed = ours or self._backends
        self._backends = [b for b in listed if b.get("state") not in ("DI", "ER")]
        first = (self._backends or listed)[0]
        text = f"{first.get('url')}, {first.get('readable_state') or first.get('state')}"
        if not self._backends:
            said = str(first.get("error_message") or "").strip()
            return failed(
                f"{text}{said and f', {said}'}",
                "start the backend; from Label Studio's own machine or container its address must answer /health "
                "(docs/label_studio.md says what hinders it)",
            )
        if not ours:
            return warning(
                f"{text}; its model is {first.get('model_version') or 'unnamed'!s}, which is not ours",
                "if it should be: Settings, Model, Edit: the address of this backend (port 9090)",
            )
        return ok(f"{text}, {first.get('model_version')}")

    def interactive(self) -> Finding:
        if not any(backend.get("is_interactive") for backend in self._backends):
            return failed(
                "off: clicks with the smart tool do not reach the backend",
                "Settings, Model, the model's menu, Edit: switch on Interactive preannotations",
            )
        return ok("on")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _faults(config: str, images: Mapping[str, ImageTag]) -> Iterator[tuple[str, str]]:
    """What a labelling config, which has been read, lacks, each with what to do."""
    controls = [tag for tag in page_of(config).tags() if tag.kind in _SMART | DRAWING]
    for tag in controls:
        if not tag.get("toname"):
            where = f'add toName="{next(iter(images))}" to it'
            yield f"{tag.get('name')!r} has no toName: Label Studio's page stays empty", where
    for name, image in images.items() if all(tag.get("toname") for tag in controls) else ():
        if not image.outputs:
            yield (
                f"nothing to answer with: no BrushLabels, PolygonLabels, Brush or Polygon draws on {name!r}",
                f'add <BrushLabels name="mask" toName="{name}"> with the same labels as the smart tool',
            )
        tools = [tag for tag in controls if tag.kind in _SMART and name in drawn_on(tag)]
        smart = [tag for tag in tools if "true" in (tag.get("smart"), tag.get("smartonly"))]
        if not smart:
            yield (
                f'no smart tool: no KeyPointLabels or RectangleLabels on {name!r} has smart="true"',
                f'add <KeyPointLabels name="click" toName="{name}" smart="true"> with the labels, or '
                'smart="true" to the one that is there',
            )
        if not image.outputs or any(output.open for output in image.outputs):
            continue  # labels from the task are not known here
        known = frozenset().union(*(output.labels for output in image.outputs))
        for tool in smart:
            if missing := sorted(set(label_names(tool)) - known):
                yield (
                    f"the smart tool {tool.get('name')!r} has labels that nothing answers with: {', '.join(missing)}",
                    f"give {' or '.join(output.name for output in image.outputs)} the same labels",
                )
