"""What *Start Training* needs before it may be pressed, and which options an operator may set."""

import pytest

from icmformer.errors import ConfigError
from ls_backend.settings import BackendSettings
from ls_backend.training_options import ALLOWED, read_options, training_store
from tests.ls_backend.trainings import Trainings


@pytest.fixture
def trainings(tmp_path):
    return Trainings(tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        *(
            "--out x",
            "--promote=x",
            "--label-studio x",
            "--project 3",
            "--weights x",
            "--refresh",
            "--install",
            "--name x",
        ),
        *("--samples none", "--samples=0", "--threads 0", "--lr 0", "--lr nan", "--held-out 1", "--profile Fast"),
        *("--workers -1", "--choosing x", "--held-out 0"),
        *("--sam 3", "x", "--samples", "--samples --batch", "--accepted=1", "'--samples 3", "--annotations x", "-h"),
    ],
)
def test_options_that_are_not_an_operators_to_set_are_refused(given):
    with pytest.raises(ConfigError, match="ICMFORMER_TRAINING_OPTIONS"):
        BackendSettings.from_environment({"ICMFORMER_TRAINING_DIR": "x", "ICMFORMER_TRAINING_OPTIONS": given})


def test_allowed_options_are_options_of_the_training_and_take_what_they_take_there(capsys):
    from training.finetune import main

    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for option in ALLOWED:
        takes = f"[{option}]" not in told
        assert option in told
        value = {"--orientation": "stored", "--profile": "exact", "--group-by": "a b", "--lr": "1e-4"}.get(option, "1")
        value = "0.25" if option in ("--held-out", "--choosing") else value
        words = read_options("X", f"{option} '{value}'" if takes else option)
        assert words == ((option, value) if takes else (option,))


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ({"user": "", "password": ""}, "needs BASIC_AUTH_USER and BASIC_AUTH_PASS"),
        ({"url": "", "api_key": ""}, "needs LABEL_STUDIO_URL"),
        ({"api_key": ""}, "needs LABEL_STUDIO_API_KEY"),
        ({"weights": "starter"}, "icmformer weights promote STORE starter"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_served(trainings, missing, text):
    with pytest.raises(ConfigError, match=text):
        trainings.jobs(**missing)


def test_a_missing_extra_or_folder_is_said(trainings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("ls_backend.training_options._MODULES", ("training", "no_such_module"))
        with pytest.raises(ConfigError, match="no_such_module is not installed: pip install"):
            training_store(trainings.settings(), "u")
    (trainings.home / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        trainings.jobs(training_dir=trainings.home / "file" / "runs")
    with pytest.raises(ConfigError, match="needs ICMFORMER_TRAINING_DIR"):
        trainings.settings(training_dir=None, training_every=5)
