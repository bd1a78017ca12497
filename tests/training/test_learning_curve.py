"""The log of several runs as one."""

import csv
import json

import pytest

from training.learning_curve import main


@pytest.fixture
def runs(tmp_path):
    """Two runs: 40 samples with a pause of an hour in between, then 20, each step taking 6 seconds."""
    logs = {
        "first": [
            {"seen": 10, "time": 1000.0, "loss": 0.4, "iou": 0.2, "lr": 0.1, "norm": 1.0},
            {"seen": 20, "time": 1006.0, "loss": 0.2, "iou": 0.4, "lr": 0.1, "norm": 1.0},
            {"seen": 20, "time": 1012.0, "validation": figures(9)},
            {"seen": 30, "time": 4612.0, "loss": 0.3, "iou": 0.5, "lr": 0.1, "norm": 1.0},
            {"seen": 40, "time": 4618.0, "loss": 0.1, "iou": 0.7, "lr": 0.3, "norm": 1.0},
        ],
        "second": [
            {"seen": 10, "time": 9000.0, "loss": 0.1, "iou": 0.8, "lr": 0.2, "norm": 1.0},
            {"seen": 20, "time": 9006.0, "loss": 0.1, "iou": 0.8, "lr": 0.2, "norm": 1.0},
            {"seen": 20, "time": 9012.0, "validation": figures(6)},
        ],
    }
    for name, rows in logs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(tmp_path / name) for name in logs]


def figures(noc90):
    return {"noc80": 3, "noc85": 4.5, "noc90": noc90, "never90": 0.2, "miou1": 0.6, "miou5": 0.8}


def test_samples_and_hours_add_up_without_pauses(runs, tmp_path, capsys):
    table, picture = tmp_path / "log.csv", tmp_path / "curve.png"
    assert main([*runs, "--every", "20", "--csv", str(table), "--picture", str(picture)]) == 0
    rows = list(csv.DictReader(table.open()))
    told = [(row["run"], row["samples"], row["loss"], row["noc90"]) for row in rows]
    assert told == [
        ("1", "20", "0.3", ""),
        ("1", "20", "", "9"),
        ("1", "40", "0.2", ""),
        ("2", "60", "0.1", ""),
        ("2", "60", "", "6"),
    ]
    assert [float(row["hours"]) for row in rows] == pytest.approx([n / 3600 for n in (6, 6, 12, 18, 18)], abs=6e-4)
    printed = capsys.readouterr().out
    assert "| 2 | 60 | 0.01 | 3 | 4.5 | 6 | 0.2 | 0.6 | 0.8 |" in printed
    assert "60 samples in 0.01 hours" in printed
    assert main([*runs, "--every", "10", "--csv", str(table)]) == 0  # a line a step
    assert [row["samples"] for row in csv.DictReader(table.open()) if row["loss"]] == [
        "10",
        "20",
        "30",
        "40",
        "50",
        "60",
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_last_line_cut_by_a_kill_is_dropped(runs, capsys):
    with open(f"{runs[1]}/log.jsonl", "a") as file:
        file.write('{"seen": 30, "ti')
    assert main(runs) == 0
    assert "60 samples" in capsys.readouterr().out


def test_folders_without_a_log_are_refused(runs, tmp_path, capsys):
    assert main([*runs, str(tmp_path)]) == 2
    assert "there is no" in capsys.readouterr().err
    step = {"seen": 1, "time": 1}
    validation = {"noc90": 3}
    for odd in ({"seen": 1}, step, {**step, "validation": validation}, {**step, "validation": 3}, [1]):
        (tmp_path / "log.jsonl").write_text(json.dumps(odd) + "\n")
        assert main([str(tmp_path)]) == 2
        assert "not a log of a training run" in capsys.readouterr().err
