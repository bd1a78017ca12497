"""A stand-in of Label Studio with a project, and the project as a fine-tuning reads it."""

import threading

import pytest

from icmformer.fetching.addresses import Policy
from icmformer.fetching.filecache import FileCache
from icmformer.fetching.label_studio import LabelStudio
from tests.ls_backend.conftest import LEGACY
from tests.training.finetuning.label_studio_server import Project
from training.finetuning.projects.label_studio import LabelStudioProject


@pytest.fixture
def studio():
    made = Project()
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def project_of(studio, tmp_path):
    def make(token=LEGACY, number=4, pauses=(0.01, 0.01), **options):
        label_studio = LabelStudio(studio.url, token, Policy.for_home(studio.url, ()), 5.0, 4 << 20)
        cache = FileCache(tmp_path / "files", 1 << 26)
        return LabelStudioProject(label_studio, number, cache=cache, pauses=pauses, **options)

    return make
