"""The limit on what a test may cost: who computes or waits too long fails, slow tests and busy machines do not."""

import textwrap
import time
from dataclasses import replace

import pytest

from tests import budget

pytest_plugins = ["pytester"]


class Clock:
    """Stands still but for what tests say that they took."""

    now = budget.Spent(0.0, 0.0, 0.0)

    @classmethod
    def take(cls, wall=0.0, cpu=0.0, stalled=0.0):
        cls.now = replace(cls.now, wall=cls.now.wall + wall, cpu=cls.now.cpu + cpu, stalled=cls.now.stalled + stalled)


@pytest.fixture
def outcomes(pytester, monkeypatch):
    """Runs tests; how many passed and failed, and what was printed."""

    def run(text, *options):
        pytester.makepyfile(f"import pytest\nfrom tests.contract.test_budget import Clock\n{textwrap.dedent(text)}")
        pytester.makeini("[pytest]\nmarkers =\n  slow\n  e2e\n  gpu\n")
        with monkeypatch.context() as patch:  # not for this test itself
            patch.setattr(budget.Spent, "now", lambda: Clock.now)
            patch.setattr(budget, "limit", lambda: budget.LIMIT)
            result = pytester.runpytest_inprocess("-p", "tests.budget", "-p", "no:randomly", *options)
        return result.parseoutcomes(), result.stdout.str()

    return run


def test_who_takes_too_long_or_sets_up_too_much_fails_unless_marked(outcomes):
    counts, told = outcomes("""
        @pytest.fixture
        def server():
            Clock.take(wall=21)
        def test_waits(): Clock.take(wall=21, cpu=2)
        def test_computes(): Clock.take(wall=11, cpu=21)  # on two cores
        def test_sets_up(server): pass
        def test_quick(): Clock.take(wall=19, cpu=19)
        @pytest.mark.slow
        def test_slow(): Clock.take(wall=99, cpu=99)
        @pytest.mark.e2e
        def test_in_a_browser(): Clock.take(wall=99, cpu=99)
        @pytest.mark.gpu
        def test_on_a_gpu(): Clock.take(wall=99, cpu=99)
    """)
    assert counts == {"passed": 4, "failed": 2, "errors": 1}
    assert "over the limit of 20 s: its call took 21.0 s (21.0 s by the clock, 2.0 s of computing, 0.0 s in" in told
    assert "its setup took 21.0 s" in told


def test_waiting_for_a_core_is_not_held_against_a_test_but_computing_is(outcomes):
    counts, _ = outcomes("""
        def test_waits_for_a_core(): Clock.take(wall=50, cpu=19, stalled=40)
        def test_computes_all_the_same(): Clock.take(wall=50, cpu=21, stalled=50)
        def test_waits_for_something_else(): Clock.take(wall=50, cpu=1, stalled=20)
    """)
    assert counts == {"passed": 1, "failed": 2}


def test_the_dearest_tests_are_written_as_a_table(outcomes, pytester):
    many = "\n".join(f"def test_{n}(): Clock.take(wall={n}, cpu={n / 2})" for n in range(1, 22))
    many += "\n@pytest.fixture\ndef server(): Clock.take(wall=5, cpu=4)\ndef test_server(server): Clock.take(wall=1.5)"
    outcomes(many, "--costs", "costs.md", "-m", "not slow")
    rows = (pytester.path / "costs.md").read_text().splitlines()
    assert rows[:2] == ["| test | seconds | of them computing |", "|---|---|---|"]
    assert len(rows) == 22
    assert rows[2].endswith("::test_21` | 21.0 | 10.5 |")
    assert any(row.endswith("::test_server` | 6.5 | 4.0 |") for row in rows)  # with what it set up


def test_a_table_that_would_take_a_tests_place_is_refused_before_anything_runs(pytester):
    file = pytester.makepyfile("def test_mine(): pass")
    result = pytester.runpytest_inprocess("-p", "tests.budget", "--costs", file)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --costs takes a file to write that ends in .md, got *.py"])
    assert "test_mine" in file.read_text()


def test_the_limit_grows_with_the_time_that_a_fixed_task_takes(monkeypatch):
    for factor, expected in ((0.5, 20), (1.0, 20), (2.5, 50)):
        monkeypatch.setattr(budget, "_task", lambda factor=factor: factor * budget._TASK)
        assert budget.limit.__wrapped__() == pytest.approx(expected)


def test_the_kernel_tells_of_waiting_for_cores_or_all_waiting_is_taken_for_it(monkeypatch, tmp_path):
    own, machine = tmp_path / "own", tmp_path / "machine"
    monkeypatch.setattr(budget, "_PRESSURE", (own, machine))
    machine.write_text("some avg10=0.85 avg60=1.94 avg300=1.17 total=7286809\nfull avg10=0.00 total=5\n")
    assert budget._stalled() == pytest.approx(7.286809)
    own.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\n")
    assert budget._stalled() == 2.5
    own.unlink()
    machine.write_text("")
    start = budget.Spent.now()
    time.sleep(0.05)
    assert budget.Spent.now().since(start).own < 0.04
