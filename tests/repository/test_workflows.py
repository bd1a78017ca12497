"""GitHub's workflows: right by what checkers know of them, and true of this repository."""

import re
import shlex
import tomllib

import pytest
import yaml

from tests.conftest import ROOT
from tests.repository.checkers import checker, fits, read, run, tracked

FILES = sorted(f".github/workflows/{path.name}" for path in (ROOT / ".github/workflows").glob("*.yml"))
WORKFLOWS = {name: read(name) for name in FILES}
JOBS = {(name, job): content for name in FILES for job, content in WORKFLOWS[name]["jobs"].items()}
STEPS = [(name, job, step) for (name, job), content in JOBS.items() for step in content.get("steps", ())]
_PINNED = re.compile(r"uses: ([\w./-]+)@([0-9a-f]{40}) # v(\d+)(\.\d+){2}$")
_WRITES = {
    (".github/workflows/docs.yml", "publish"): {"pages": "write", "id-token": "write"},
    (".github/workflows/release.yml", "publish"): {"id-token": "write"},
}
"""All that any job may do, beside reading."""


def commands():
    """(file, job, command) of every line of every step."""
    for name, job, step in STEPS:
        for line in step.get("run", "").splitlines():
            yield name, job, line.strip()


def test_they_fit_their_schema():
    fits("github-workflows", *FILES)
    fits("dependabot", ".github/dependabot.yml")


def actionlint(folder, files):
    """What actionlint says of workflows in a clone of their own; actions by the tag that their commit has, so that it
    knows which inputs they take."""
    (folder / ".git").mkdir(exist_ok=True)
    here = folder / ".github/workflows"
    here.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (here / name).write_text(re.sub(r"@[0-9a-f]{40} # (v\d+)\.\S+", r"@\1", text))
    return run("actionlint", "-no-color", "-shellcheck=", "-pyflakes=", folder=folder)


def texts():
    return {path.name: path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")}


def test_actionlint_finds_nothing(tmp_path):
    code, told = actionlint(tmp_path, texts())
    assert (code, told) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("needs: build", "needs: built", 'needs job "built"'),
        ("matrix.system }}", "matrix.systems }}", 'property "systems" is not defined'),
        ("path: dist/", "pathh: dist/", 'input "pathh" is not defined'),
        ("contents: read", "contents: reed", '"reed" is invalid as permission'),
    ],
)
def test_actionlint_finds_what_is_wrong(tmp_path, right, wrong, told):
    files = texts()
    assert right in files["wheel.yml"]
    files["wheel.yml"] = files["wheel.yml"].replace(right, wrong)
    code, said = actionlint(tmp_path, files)
    assert code != 0
    assert told in said


def test_zizmor_finds_no_weak_point():
    code, told = run("zizmor", "--offline", "--quiet", "--no-progress", ".github")
    assert code == 0, told


def test_zizmor_finds_a_weak_point(tmp_path):
    workflow = {
        "on": "pull_request_target",
        "jobs": {"a": {"runs-on": "ubuntu-latest", "steps": [{"run": "echo ${{ github.event.pull_request.title }}"}]}},
    }
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/weak.yml").write_text(yaml.dump(workflow))
    code, told = run("zizmor", "--offline", "--quiet", "--no-progress", ".github", folder=tmp_path)
    assert code != 0
    assert "template-injection" in told
    assert "dangerous-triggers" in told


@pytest.mark.parametrize("name", FILES)
def test_actions_are_pinned_to_a_commit_whose_version_is_told(name):
    lines = [line.strip().removeprefix("- ") for line in (ROOT / name).read_text().splitlines() if "uses: " in line]
    assert lines
    for line in lines:
        if not line.startswith("uses: ./"):
            assert _PINNED.match(line), line


def test_an_action_has_one_version_in_all_of_them():
    used = {}
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for line in path.read_text().splitlines():
            if found := re.search(_PINNED.pattern, line):
                used.setdefault(found[1], set()).add(found[2])
    assert len(used) > 4
    assert {action: commits for action, commits in used.items() if len(commits) > 1} == {}


def test_no_job_may_more_than_it_needs():
    for name in FILES:
        assert WORKFLOWS[name]["permissions"] in ({}, {"contents": "read"}), name
    for (name, job), content in JOBS.items():
        asked = {what: how for what, how in content.get("permissions", {}).items() if how != "read"}
        assert asked == _WRITES.get((name, job), {}), (name, job)
        if asked:  # somebody has to let it
            assert "environment" in content, (name, job)
    for name, job, step in STEPS:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false", (name, job)


def test_every_job_ends_and_outdated_ones_are_ended():
    called = {content["uses"] for content in JOBS.values() if "uses" in content}
    for (name, job), content in JOBS.items():
        assert "uses" in content or int(content["timeout-minutes"]) <= 120, (name, job)
    for name, workflow in WORKFLOWS.items():
        only_called = f"./{name}" in called and not {"push", "pull_request", "schedule"} & set(workflow["on"])
        assert only_called or "concurrency" in workflow, name
    groups = [workflow["concurrency"]["group"] for workflow in WORKFLOWS.values() if "concurrency" in workflow]
    assert len(groups) == len(set(groups)), "one that calls another would wait for itself"
    assert not any("github.workflow" in group for group in groups), "the caller's, in one that is called"


def test_targets_of_make_exist():
    made = {words[1] for _, _, line in commands() if (words := shlex.split(line))[0] == "make"}
    assert {"lint", "test", "test-slow", "e2e", "audit", "wheel", "docs"} <= made
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert made - targets == set()


def test_files_that_they_name_exist():
    named = set()
    for content in JOBS.values():
        if content.get("uses", "").startswith("./"):
            named.add(content["uses"].removeprefix("./"))
    for _, _, step in STEPS:
        inputs = step.get("with", {})
        for key in ("cache-dependency-path", "sparse-checkout"):
            named |= set(inputs.get(key, "").split())
    for _, _, line in commands():
        words = shlex.split(line)
        named |= {word for word in words if re.fullmatch(r"[a-z_.]+/[\w./-]+", word) and not word.startswith("dist/")}
        if words[0].startswith("python") and words[1] == "-m" and words[2] != "pip":
            named.add(words[2].replace(".", "/") + ".py")
    assert {"constraints/cpu.txt", "release/installed.py"} <= named
    known = tracked()
    for name in named:
        pattern = re.escape(name).replace(r"\*", "[^/]*") + "(/.*)?"
        assert any(re.fullmatch(pattern, path) for path in known), name


def test_tests_run_on_every_python_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {found[1] for text in project["classifiers"] if (found := re.search(r":: Python :: (3\.\d+)$", text))}
    assert set(JOBS[".github/workflows/ci.yml", "test"]["strategy"]["matrix"]["python"]) == named
    systems = JOBS[".github/workflows/wheel.yml", "installed"]["strategy"]["matrix"]["system"]
    assert {system.partition("-")[0] for system in systems} == {"ubuntu", "windows", "macos"}


def test_torch_comes_from_the_index_of_the_repositorys_variable():
    for (name, job), content in JOBS.items():
        makes = [step["run"] for step in content.get("steps", ()) if step.get("run", "").startswith("make ")]
        if makes and makes != ["make audit"]:
            assert WORKFLOWS[name]["env"]["TORCH_INDEX_URL"] == "${{ vars.TORCH_INDEX_URL }}", (name, job)


def test_no_host_of_an_index_is_named():
    for name in tracked(".github"):
        assert not re.search(r"\bpypi\.|pythonhosted|download\.pytorch|debian\.", (ROOT / name).read_text()), name


def test_what_is_published_is_what_ci_built_and_installed():
    release = WORKFLOWS[".github/workflows/release.yml"]
    assert release["on"] == {"push": {"tags": ["v*"]}}
    publish = release["jobs"]["publish"]
    assert set(publish["needs"]) == {"version", "ci"}
    download, upload = (step["uses"].partition("@")[0] for step in publish["steps"])
    assert (download, upload) == ("actions/download-artifact", "pypa/gh-action-pypi-publish")
    built = JOBS[".github/workflows/wheel.yml", "build"]["steps"]
    (stored,) = (step["with"] for step in built if step.get("uses", "").startswith("actions/upload-artifact@"))
    assert publish["steps"][0]["with"]["name"] == stored["name"]
    assert release["jobs"]["ci"]["uses"].removeprefix("./") in FILES
    assert JOBS[".github/workflows/ci.yml", "wheel"]["uses"].removeprefix("./") in FILES
    # No step of that job, but the two, sees the token.
    assert len(publish["steps"]) == 2


def test_a_checker_that_ci_lacks_is_a_failure(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-checker is not installed"):
        checker("no-such-checker")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception):
        checker("no-such-checker")
