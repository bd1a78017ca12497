"""The click log: many writers, bad disks, damaged lines; and what the report makes of CVAT's."""

import json
import multiprocessing
import threading

import numpy as np
import pytest

from icmformer.cli.main import main
from icmformer.errors import ConfigError
from icmformer.serving.click_log import ClickLog, read

CLICK = {"positive": 1, "negative": 0, "box": False, "result": "mask", "milliseconds": 20.0}


def write_many(path, start):
    log = ClickLog(path)
    for number in range(200):
        log.write("click", "cvat", **CLICK, request=str(start + number))


def test_lines_of_several_processes_and_threads_do_not_mix(tmp_path):
    path = tmp_path / "clicks.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(path, 1000 * n)) for n in (1, 2)]
    workers += [threading.Thread(target=write_many, args=(path, 1000 * n)) for n in (3, 4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = [line["request"] for line in read([path])]
    assert sorted(found) == sorted(str(1000 * n + k) for n in (1, 2, 3, 4) for k in range(200))
    assert path.stat().st_mode & 0o077 == 0  # the owner's alone


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = ClickLog(None)
    log.write("click", "cvat", **CLICK)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_at_the_start_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "clicks.jsonl", tmp_path):
        caplog.clear()
        log = ClickLog(path)
        (record,) = caplog.records
        assert "ICMFORMER_CLICK_LOG" in record.getMessage()
        log.write("click", "cvat", **CLICK)
    assert len(caplog.records) == 1


def test_a_log_that_is_lost_on_the_way_costs_no_click(tmp_path, caplog):
    path = tmp_path / "logs" / "clicks.jsonl"
    log = ClickLog(path)
    path.unlink()
    path.mkdir()
    for _ in range(3):
        log.write("click", "cvat", **CLICK)
    assert sum("not logged" in record.getMessage() for record in caplog.records) == 1


def fill(path, start):
    log = ClickLog(path, most_bytes=45_000)
    for number in range(100):
        log.write("click", "cvat", **CLICK, request=str(start + number))


def test_a_log_that_several_processes_put_aside_loses_nothing(tmp_path):
    path = tmp_path / "clicks.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill, args=(path, 1000 * n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    aside = path.with_name("clicks.jsonl.1")
    assert 45_000 < aside.stat().st_size < 45_400  # put aside once, when it was full
    kept = sorted(int(line["request"]) for line in read([aside, path]))
    assert kept == [1000 * worker + number for worker in range(4) for number in range(100)]


def test_a_full_log_is_put_aside(tmp_path):
    path = tmp_path / "clicks.jsonl"
    log = ClickLog(path, most_bytes=300)
    for number in range(6):
        log.write("click", "cvat", **CLICK, request=str(number))
    assert path.stat().st_size < 600
    kept = [line["request"] for line in read([path.with_name("clicks.jsonl.1"), path])]
    assert kept == sorted(kept)
    assert kept[-1] == "5"


def test_damaged_lines_are_left_out_and_other_files_refused(tmp_path):
    path = tmp_path / "clicks.jsonl"
    log = ClickLog(path)
    log.write("click", "cvat", **CLICK)
    with path.open("ab") as file:
        file.write(
            b'{"event": "click", "tool": "cv\n[]\n\xff\xfe\n{"event": "click", "positive": "one"}\nnull\n'
            b'{"event": "accepted", "time": "", "annotation": 3, "regions": [{"id": "x"}]}\n'
        )
    assert len(list(read([path]))) == 1
    (tmp_path / "notes.txt").write_text("buy milk\n")
    with pytest.raises(ConfigError, match="not a click log"):
        list(read([tmp_path / "notes.txt"]))
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read([tmp_path / "none"]))


def test_the_report_of_cvats_clicks(tmp_path, capsys):
    """Percentiles against numpy's."""
    path, spent = tmp_path / "clicks.jsonl", np.random.default_rng(0).permutation(np.arange(1, 201)).tolist()
    log = ClickLog(path)
    for number, milliseconds in enumerate(spent):
        facts = {**CLICK, "milliseconds": milliseconds, "negative": number % 3, "box": number % 2 == 0}
        log.write("click", "cvat", **facts | {"result": "empty" if number < 10 else "mask"})
    assert main(["clicks", "report", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"cvat"}
    figures = found["cvat"]
    assert figures["requests"] == 200
    assert figures["empty"] == 0.05
    counts = [1 + n % 3 + (n % 2 == 0) for n in range(200)]
    assert figures["clicks_a_request"]["mean"] == np.mean(counts)
    assert figures["milliseconds"] == {
        "median": np.median(spent),
        "p95": np.percentile(spent, 95, method="inverted_cdf"),
        "p99": np.percentile(spent, 99, method="inverted_cdf"),
    }
    assert "objects" not in figures
    assert main(["clicks", "report", str(path)]) == 0
    told = capsys.readouterr().out
    assert f"200 requests, {np.mean(counts):.2f} clicks each, 5.0% empty masks" in told
    assert "CVAT does not tell" in told


def test_nothing_to_report(tmp_path, capsys):
    path = tmp_path / "clicks.jsonl"
    ClickLog(path).write("click", "cvat", **CLICK)
    assert main(["clicks", "report", str(path), "--since", "2999-01-01"]) == 2
    assert "no clicks" in capsys.readouterr().err
    assert main(["clicks", "report", str(path), "--since", "2020-01-01"]) == 0
    for wrong in ("yesterday", "2026-1-2"):
        with pytest.raises(SystemExit):
            main(["clicks", "report", str(path), "--since", wrong])
        assert "needs a date such as 2026-01-31" in capsys.readouterr().err
