"""The limit on what a test may cost: who computes or waits too long fails, slow tests and busy machines do not."""

import textwrap
import time

import pytest

from tests import budget

pytest_plugins = ["pytester"]


@pytest.fixture
def outcomes(pytester, monkeypatch):
    """Runs tests with a limit of a fifth of a second; how many passed and failed."""

    def run(text, *options, stalled=lambda: 0.0):
        pytester.makepyfile(textwrap.dedent(text))
        pytester.makeini("[pytest]\nmarkers = slow\n")
        with monkeypatch.context() as patch:  # not for this test itself
            patch.setattr(budget, "LIMIT", 0.2)
            patch.setattr(budget, "limit", lambda: 0.2)
            patch.setattr(budget, "_stalled", stalled)
            result = pytester.runpytest_inprocess("-p", "tests.budget", "-p", "no:randomly", *options)
        return result.parseoutcomes(), result.stdout.str()

    return run


WAITS = """
import time, pytest
@pytest.fixture
def server():
    time.sleep(0.3)
def test_waits(): time.sleep(0.3)
def test_sets_up(server): pass
def test_quick(): pass
@pytest.mark.slow
def test_slow(): time.sleep(0.3)
"""


def test_who_takes_too_long_or_sets_up_too_much_fails_unless_marked_slow(outcomes):
    counts, told = outcomes(WAITS)
    assert counts == {"passed": 2, "failed": 1, "errors": 1}
    assert "its call took 0.3 s" in told
    assert "make it quicker or mark it slow" in told


def test_waiting_for_a_core_is_not_held_against_a_test_but_computing_is(outcomes):
    stalled = time.monotonic  # as if another load held all cores all the time
    assert outcomes(WAITS, stalled=stalled)[0] == {"passed": 4}
    computes = """
    import time
    def test_computes():
        end = time.process_time() + 0.3
        while time.process_time() < end: pass
    """
    assert outcomes(computes, stalled=stalled)[0] == {"failed": 1}


def test_the_dearest_tests_are_written_as_a_table(outcomes, pytester):
    outcomes(WAITS, "--costs", "costs.md")
    rows = (pytester.path / "costs.md").read_text().splitlines()
    assert rows[:2] == ["| test | seconds | of them computing |", "|---|---|---|"]
    assert len(rows) == 6
    assert "::test_quick` | 0.0 | 0.0 |" in rows[-1]
