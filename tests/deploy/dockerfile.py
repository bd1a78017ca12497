"""Reads the Dockerfiles, so that tests do what they say."""

import json
import re
import shlex
from dataclasses import dataclass

from tests.conftest import ROOT


@dataclass(frozen=True)
class Dockerfile:
    """The instructions of one file, each as (name, text), continued lines joined."""

    steps: tuple[tuple[str, str], ...]

    @staticmethod
    def read(kind):
        lines = [line for line in (ROOT / f"Dockerfile.{kind}").read_text().splitlines() if line[:1] != "#"]
        joined = re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()
        return Dockerfile(tuple(tuple(line.split(maxsplit=1)) for line in joined if line.strip()))

    def all(self, name):
        return [text for step, text in self.steps if step == name]

    def one(self, name):
        (text,) = self.all(name)
        return text

    def pairs(self, name):
        """What ENV, ARG or LABEL set."""
        return dict(pair.split("=", 1) for text in self.all(name) for pair in shlex.split(text))

    def copied(self):
        """(sources, target) of each COPY."""
        return [(words[:-1], words[-1]) for words in map(shlex.split, self.all("COPY"))]

    def commands(self):
        """The single commands of RUN."""
        return [command.strip() for text in self.all("RUN") for command in text.split("&&")]

    def health(self):
        """The command of HEALTHCHECK."""
        return json.loads(self.one("HEALTHCHECK").split("CMD", 1)[1])
