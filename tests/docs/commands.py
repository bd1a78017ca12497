"""The commands of the documentation, and which tests start their programs."""

import ast
import re
import shlex
from dataclasses import dataclass
from functools import cache

from icmformer.cli.applications import PROGRAMS
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
    "docker": "a Docker daemon",
    "cluster": "a Kubernetes cluster",
    "nuclio": "Nuclio",
    "cvat": "a CVAT with an account",
    "gpu": "a GPU",
    "gpus": "several GPUs",
    "index": "a package index and minutes; docker/install.sh, which a slow test runs, installs the same extras",
    "gigabytes": "the network, and room for gigabytes",
    "pypi": "PyPI's service for known weaknesses",
    "person": "somebody who clicks; tests in a browser start the same servers",
}
"""What a command needs that is not there where tests run. The tests beside it check what can be checked of it."""
WHAT_RUNS = [
    (pattern, () if tests == "-" else tuple(tests.split()), None if missing == "-" else missing)
    for line in (ROOT / "tests/docs/what_runs.txt").read_text().splitlines()
    if not line.startswith("#")
    for pattern, tests, missing in [line.split(" => ")]
]
"""(pattern, tests, key of NEEDS or None) from what_runs.txt."""


def what_runs(command):
    """The entry of WHAT_RUNS for a command, or None."""
    return next((entry for entry in WHAT_RUNS if re.fullmatch(entry[0], command)), None)


def is_started(program, source):
    """Whether the source of a test starts a program, in whatever process: `icmformer` with this subcommand, say."""
    name, *sub = program
    own = PROGRAMS.get(tuple(sub)) if name == "icmformer" else None
    if own and is_started((own.module.removesuffix(".__main__"),), source):
        return True
    if name == "icmformer" and sub:
        said = re.search(r",\s*".join(f'"{word}"' for word in sub), source)
        return said is not None and ("icmformer.cli.main.main" in source or '"icmformer"' in source)
    whole = re.escape(name)
    said = rf'"(icmformer\.applications\.)?{whole}"|{whole}(\.__main__)?\.main\b|(from|import) {whole}\b|^{whole}$'
    return re.search(said, source, re.M) is not None


def program_of(command):
    """Program and subcommands of a documented command, where they are ours or cvat-cli's; else empty."""
    words = [word for word in shlex.split(re.sub(r"[][]", "", command)) if "=" not in word or word.startswith("-")]
    if words[0].endswith("python") and words[1] == "-m" and words[2] != "pytest":
        sub = words[3:4] if words[2] in ("training.data.download", "training.gpu_visit") else []
        return words[2], *sub
    if words[0] == "torchrun":
        return ("training.train",)
    if words[0].endswith("icmformer"):
        for named in PROGRAMS:
            if tuple(words[1 : 1 + len(named)]) == named:
                return "icmformer", *named
        return "icmformer", *words[1 : 3 if words[1] in ("weights", "clicks", "boxes") else 2]
    if words[0] == "cvat-cli":
        return "cvat-cli", "function", words[4]
    return ()


def options_of(command):
    """The options of a documented command, those in brackets too."""
    return re.findall(r"(?<![^\s\[])--?[a-z][\w.-]*", command)


@cache
def source_of(test):
    """The source of a test with all that it uses of the tests' own files; of imports the names in full.

    Args:
        test: As in `tests/unit/test_types.py::test_name`; without a name, the whole file.
    """
    path, _, name = test.partition("::")
    if not name:
        return (ROOT / path).read_text()
    home = path.removesuffix(".py").replace("/", ".")
    found, waiting = {}, [(home, name)]
    while waiting:
        module, name = waiting.pop()
        if (module, name) in found:
            continue
        origin, source, used = _definition(module, name)
        found[module, name] = source
        waiting += [origin] if origin else [(module, other) for other in used]
    return "\n".join(found.values())


def _definition(module, name):
    """Where a name of a test module is imported from, if from another test module; its source; the names in that."""
    for home in (module, *_conftests(module)):
        for node, source in _top_level(home).get(name, ()):
            if not isinstance(node, ast.ImportFrom):
                used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
                used |= {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
                return None, source, used
            original = next(alias.name for alias in node.names if name == (alias.asname or alias.name))
            if node.module.startswith("tests."):
                return (node.module, original), "", ()
            return None, f"{node.module}.{original}", ()
    return None, "", ()


@cache
def _top_level(module):
    """The definitions and imports of a test module, by name."""
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    found = {}
    for node in ast.parse(text).body:
        names = [alias.asname or alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        source = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
        for name in names:
            found.setdefault(name, []).append((node, source))
    return found


def _conftests(module):
    """The conftest modules whose fixtures a test module may use, the nearest first."""
    parts = module.split(".")[:-1]
    for count in range(len(parts), 0, -1):
        if (ROOT / "/".join(parts[:count]) / "conftest.py").is_file():
            yield ".".join([*parts[:count], "conftest"])
