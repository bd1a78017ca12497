"""The commands of the documentation, and what runs each of them."""

import re
from dataclasses import dataclass

from tests.conftest import ROOT
from tests.docs.test_links import pages

_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, language and text."""

    page: str
    language: str
    text: str

    def commands(self):
        """Lines of a shell block, those that go on joined, without comments."""
        for line in re.sub(r"\\\n\s*", " ", self.text).splitlines():
            bare = re.sub(r"(^|\s+)#( .*|$)", "", line).strip()
            if bare:
                yield bare


def blocks(language):
    """All blocks of a language."""
    return [
        Block(page, kind, "\n".join(line.removeprefix(indent) for line in text.splitlines()))
        for page in pages()
        for indent, kind, text in _BLOCK.findall((ROOT / page).read_text())
        if kind == language
    ]


NEEDS = {
    "docker": "needs a Docker daemon",
    "cluster": "needs a Kubernetes cluster",
    "nuclio": "needs Nuclio",
    "cvat": "needs a CVAT with an account",
    "gpus": "needs several GPUs and days",
}
"""Why something cannot be run where tests run; what can be checked of it is checked by the test that stands beside."""
WHAT_RUNS = [
    tuple(None if part == "-" else part for part in line.split(" => "))
    for line in (ROOT / "tests/docs/what_runs.txt").read_text().splitlines()
    if not line.startswith("#")
]
"""(pattern, test or None, key of NEEDS or None) from what_runs.txt."""


def what_runs(command):
    """The entry of WHAT_RUNS for a command, or None."""
    return next((entry for entry in WHAT_RUNS if re.fullmatch(entry[0], command)), None)
