"""Which project of a tool is meant, by the command's options."""

from __future__ import annotations

import os
from pathlib import Path

from icmformer.errors import ConfigError
from icmformer.fetching.addresses import Site
from icmformer.fetching.settings import CvatSettings, FetchSettings
from icmformer.serving.errors import RequestError

from .project import Project


def project_of(
    label_studio: str | None = None,
    cvat: str | None = None,
    project: int | None = None,
    task: int | None = None,
    job: int | None = None,
    *,
    accepted: bool = False,
    predictions: bool = False,
    annotations: Path | None = None,
) -> Project | None:
    """The project that options name; None where they name an export.

    Args:
        label_studio: Address of a Label Studio.
        cvat: Address of a CVAT.
        project: Number of a project.
        task: Number of a task of CVAT.
        job: Number of a job of CVAT.
        accepted: Only accepted work.
        predictions: Also predictions of tasks that nobody annotated.
        annotations: The export.

    Raises:
        ConfigError: Options that contradict each other, or a login that is missing.
    """
    sources = {"--annotations": annotations, "--label-studio": label_studio, "--cvat": cvat}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        told = " and ".join(given) or "none of them"
        raise ConfigError(f"give one of --annotations, --label-studio and --cvat, which say what to read; got {told}")
    numbers = {"project": project, "task": task, "job": job}
    kinds = [kind for kind, number in numbers.items() if number is not None]
    if annotations is not None:
        wrong = [f"--{kind}" for kind in kinds] + ["--accepted"] * accepted
        if wrong:
            raise ConfigError(f"{', '.join(wrong)} go with --label-studio or --cvat, not with an export")
        return None
    if label_studio is not None and {"task", "job"} & set(kinds):
        raise ConfigError("--task and --job go with --cvat; of a Label Studio, name the project alone")
    if len(kinds) != 1 or (label_studio is not None and kinds != ["project"]):
        what = "--project N" if label_studio is not None else "one of --project N, --task N and --job N"
        raise ConfigError(f"{given[0]} needs {what}: the number is in its address")
    number = numbers[kinds[0]]
    assert number is not None
    if number < 1:
        raise ConfigError(f"--{kinds[0]} must be a number from 1 on, got {number}")
    if label_studio is not None:
        from .label_studio import LabelStudioProject

        if accepted and predictions:
            raise ConfigError("--accepted and --predictions contradict each other: nobody has accepted a prediction")
        try:
            Site.of(label_studio.strip().rstrip("/"))
        except RequestError as error:
            raise ConfigError(f"--label-studio takes an address like http://localhost:8080: {error}") from error
        environment = {**os.environ, "LABEL_STUDIO_URL": label_studio}
        settings = FetchSettings.from_environment(environment)
        return LabelStudioProject.from_settings(settings, number, accepted, predictions)
    if predictions:
        raise ConfigError("--predictions goes with Label Studio; CVAT has none")
    from .cvat import CvatProject, Kind

    kind: Kind = "project" if project is not None else "task" if task is not None else "job"
    own = CvatSettings.from_environment({**os.environ, "CVAT_HOST": cvat or ""})
    return CvatProject.from_settings(own, kind, number, accepted)
