"""Fine-tuning into a store of versions: what a run begins with, and when it switches; evaluations are made up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from icmformer import weights
from icmformer.errors import ConfigError, WeightsError
from icmformer.weights import NONE_YET, VersionStore
from icmformer.weights.pointer import LOCK_FILE
from tests.training.test_finetune import write_rings
from training.finetune import NOT_PROMOTED, main
from training.finetuning import gate
from training.finetuning.promotion import default_weights


@pytest.fixture
def judged(monkeypatch):
    """Has the new weights need so many clicks fewer, in files as evaluations leave them."""
    fewer = [3]

    def measured(path, name, settings, part, folder, *_):
        gain = fewer[0] if name == "after" else 0
        names = sorted(f"{p.stem}_{label}" for p in (settings.data / part / "masks").iterdir() for label in (1, 2))
        results = {name: 10 + (n % 3 == 0) - gain for n, name in enumerate(names)}
        folder.mkdir(exist_ok=True)
        lines = [{"run": {}}]
        lines += [{"name": n, "clicks": [], "ious": [0.5] * (k - 1) + [0.95] * (21 - k)} for n, k in results.items()]
        (folder / "objects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        noc = sum(results.values()) / len(results)
        return {"noc": dict.fromkeys(("80", "85", "90"), noc), "never": {"90": 0}, "miou": [0.5] * 20, "miou_at_1": 0.5}

    monkeypatch.setattr(gate, "measure", measured)
    monkeypatch.setattr("training.finetuning.report._pictures", lambda *_: [])
    return fewer


@pytest.fixture
def store(tmp_path):
    return VersionStore(tmp_path / "store")


@pytest.fixture
def command(tmp_path, store):
    """The command's words; of a run of that name, in a moment."""
    export = write_rings(tmp_path / "rings", 24)
    words = ["--annotations", str(export), "--held-out", "0.5", "--choosing", "0", "--batch", "2", "--samples", "2"]
    words += ["--workers", "0", "--threads", "1", "--device", "cpu"]
    return lambda run, *more: [*words, "--out", str(tmp_path / run), "--promote", str(store.folder), *more]


@pytest.fixture
def stopped(monkeypatch):
    """Runs a command until its training stops."""

    def run(words):
        with monkeypatch.context() as patch:
            patch.setattr("training.loop.run.Run._over", lambda self, *_: True)
            assert main(words) == 130

    return run


def test_promoted_weights_become_the_current_version_and_a_rollback_stays(
    command, store, miniature, judged, tmp_path, capsys
):
    assert main(command("ours", "--weights", miniature)) == 0
    assert store.current == "ours-0002"
    assert store.pointer().before == ("miniature-0001",)
    begun, made = weights.load(miniature), weights.load(store.folder)
    assert weights.load(store.path("miniature-0001")).identity == begun.identity
    assert made.identity == weights.load(tmp_path / "ours" / "weights").identity != begun.identity
    assert made.about["fine_tuning"]["from"] == "miniature-0001"
    told = f"ours-0002 is the current version of {store.folder}; to go back: icmformer weights rollback {store.folder}"
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "ours" / "report.html").read_text()

    # the next run begins with the current version, without being told
    assert main(command("more", "--name", "team")) == 0
    assert store.current == "team-0003"
    assert weights.load(store.folder).about["fine_tuning"]["from"] == "ours-0002"

    # what people roll back is not switched to by the same command
    assert store.rollback() == "ours-0002"
    assert main(command("more", "--name", "team")) == 0
    assert store.current == "ours-0002"
    assert "team-0003 was made current before, and ours-0002 is current" in capsys.readouterr().out
    assert [version.name for version in store.versions()] == ["miniature-0001", "ours-0002", "team-0003"]

    judged[0] = 0
    assert main(command("worse")) == NOT_PROMOTED
    assert store.current == "ours-0002"
    assert len(store.versions()) == 3


def test_a_run_that_names_no_weights_begins_with_those_that_are_served(store, miniature, monkeypatch):
    monkeypatch.delenv("ICMFORMER_WEIGHTS", raising=False)
    assert default_weights(None) == default_weights(str(store.folder)) == "starter"
    monkeypatch.setenv("ICMFORMER_WEIGHTS", "starter-open")
    assert default_weights(None) == default_weights(str(store.folder)) == "starter-open"
    monkeypatch.setenv("ICMFORMER_WEIGHTS", str(store.folder))  # for later: nothing is in it yet
    assert default_weights(str(store.folder)) == "starter"
    store.add(miniature, "first")
    store.promote("first")
    assert default_weights(str(store.folder)) == str(store.folder)


def test_a_run_keeps_the_version_it_began_with_and_switches_nothing_that_changed_meanwhile(
    command, store, miniature, judged, stopped, tmp_path, capsys
):
    found = weights.load(miniature)
    for name, crop in (("first", 48), ("second", 64)):
        serving = replace(found.serving, min_crop_size=crop)
        store.add(weights.save(tmp_path / name, found.config, found.state_dict, name, serving=serving), name)
    store.promote("first")
    words = command("run", "--weights", str(store.folder))
    stopped(words)
    store.promote("second")
    assert main(words) == 0
    made = weights.load(tmp_path / "run" / "weights")
    assert (made.about["fine_tuning"]["from"], made.serving.min_crop_size) == ("first", 48)
    assert store.current == "second"
    assert weights.load(store.path("run-0001")).identity == made.identity
    out, page = capsys.readouterr().out, (tmp_path / "run" / "report.html").read_text()
    for told in ("NOT switched: second is current", f"icmformer weights promote {store.folder} run-0001"):
        assert told in out
        assert told in page
    facts = json.loads((tmp_path / "run" / "promotion.json").read_text())
    assert (facts["version"], facts["switched"]) == ("run-0001", False)

    store.rollback()  # what it was compared with is current again: the same command switches
    assert main(words) == 0
    assert store.pointer().version == "run-0001"
    assert store.pointer().before == ("first",)


def test_a_run_goes_on_with_weights_that_were_converted_for_its_store(
    command, store, miniature, judged, stopped, tmp_path
):
    found = weights.load(miniature)
    file = tmp_path / "theirs.pth"
    torch.save({"config": found.config, "model": found.state_dict}, file)
    words = command("run", "--weights", str(file))
    stopped(words)
    assert store.current == "theirs-0001"
    assert main(words) == 0
    assert store.pointer().before == ("theirs-0001",)
    assert store.current == "run-0002"


def test_a_store_that_cannot_be_written_is_told_before_training(command, store, miniature, judged, capsys, tmp_path):
    store.promote(store.add(miniature))
    (store.folder / LOCK_FILE).unlink()
    (store.folder / LOCK_FILE).mkdir()  # nobody can lock that, not even root
    assert main(command("run", "--weights", miniature)) == 2
    assert f"{store.folder} cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "run" / "run").exists()


def test_a_promotion_that_fails_is_made_up_for_by_the_same_command(
    command, store, miniature, judged, monkeypatch, capsys
):
    words = command("run", "--weights", miniature)
    with monkeypatch.context() as patch:
        patch.setattr(VersionStore, "promote", refusing(VersionStore.promote))
        assert main(words) == 2
    status = json.loads((Path(words[words.index("--out") + 1]) / "status.json").read_text())
    assert (status["state"], status["stage"], status["again"]) == ("failed", "promoting", True)
    capsys.readouterr()
    assert main(words) == 0
    assert "starts from" not in capsys.readouterr().out  # it is not trained once more
    assert store.current == "run-0002"


def refusing(promote):
    """A store's promotion, of its first version alone."""

    def refused(store, version, expected=None):
        if expected != NONE_YET:
            raise WeightsError(f"{store.folder} cannot be written: it is read-only")
        promote(store, version, expected)

    return refused


def test_a_version_that_is_gone_is_told(command, store, miniature, judged, stopped, capsys):
    stopped(command("run", "--weights", miniature))
    for name in ("icmformer_vit_tiny224", "simpleclick_vit_tiny224"):
        store.promote(store.add(f"random:{name}"))
    assert store.prune(1) == ["miniature-0001"]
    capsys.readouterr()
    assert main(command("run", "--weights", str(store.folder))) == 2
    assert "began with miniature-0001, a version that" in capsys.readouterr().err


def test_installing_over_a_store_is_refused(miniature, tmp_path, monkeypatch):
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path))
    store = VersionStore(tmp_path / "weights" / "miniature")
    store.promote(store.add(miniature))
    with pytest.raises(ConfigError, match="--promote miniature"):
        gate.install(Path(miniature))
    assert weights.load("miniature").name == "miniature-0001"
