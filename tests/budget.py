"""What each test costs, and the limit on it: a pytest plugin.

A test that is not `slow`, `e2e` or `gpu` may take LIMIT seconds, and so may what it sets up; more on a machine that is
slower than the one that the limit was set on. Seconds in which no core was free count only where the test itself
computed in them, so that the limit means the same beside another load; where the kernel does not tell of them,
only computing counts. What is taken down is not counted: it is what several tests shared.

`--costs FILE` writes the twenty dearest tests of a run as a Markdown table, as docs/contributing.md has it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

LIMIT = 20.0  # seconds, on an EPYC with AVX-512
_TASK = 0.16  # seconds that `_task` takes there
_LISTED = 20
_PRESSURE = (Path("/sys/fs/cgroup/cpu.pressure"), Path("/proc/pressure/cpu"))


@dataclass(frozen=True)
class Spent:
    """Seconds by three clocks.

    Attributes:
        wall: Of the clock on the wall.
        cpu: Computed by this process and by those it started and waited for.
        stalled: In which something here waited for a core; all of them where the kernel does not count them.
    """

    wall: float
    cpu: float
    stalled: float

    @classmethod
    def now(cls) -> Spent:
        return cls(time.monotonic(), sum(os.times()[:4]), _stalled())

    def since(self, start: Spent) -> Spent:
        return Spent(self.wall - start.wall, self.cpu - start.cpu, self.stalled - start.stalled)

    @property
    def own(self) -> float:
        """Those that the test answers for."""
        return max(self.cpu, self.wall - self.stalled)


def _stalled() -> float:
    for file in _PRESSURE:
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(file.read_text().splitlines()[0].rpartition("total=")[2]) / 1e6
    return time.monotonic()


def _task() -> float:
    """Seconds of computing that a fixed piece of work takes, half of it Python's and half a matrix product's."""
    square = torch.ones(768, 768)
    start = time.process_time()
    sum(n * n for n in range(2_400_000))
    for _ in range(10):
        square @ square
    return time.process_time() - start


@cache
def limit() -> float:
    """Seconds that a test may take on this machine."""
    return LIMIT * max(1.0, min(_task() for _ in range(3)) / _TASK)


def _limited(item: pytest.Item) -> bool:
    return not any(item.get_closest_marker(name) for name in ("slow", "e2e", "gpu"))


def _watched(item: pytest.Item, phase: str) -> Iterator[None]:
    start = Spent.now()
    result = yield
    spent = Spent.now().since(start)
    item.user_properties.append((f"{phase} wall", round(spent.wall, 3)))
    item.user_properties.append((f"{phase} cpu", round(spent.cpu, 3)))
    if _limited(item) and spent.own > LIMIT and spent.own > limit():
        pytest.fail(
            f"over the limit of {limit():.0f} s: its {phase} took {spent.own:.1f} s ({spent.wall:.1f} s by the clock, "
            f"{spent.cpu:.1f} s of computing, {spent.stalled:.1f} s in which no core was free). Make it quicker, or "
            "mark it with @pytest.mark.slow; see docs/contributing.md",
            pytrace=False,
        )
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    return (yield from _watched(item, "setup"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item):
    return (yield from _watched(item, "call"))


def pytest_addoption(parser):
    parser.addoption(
        "--costs", type=Path, metavar="FILE", help=f"write the {_LISTED} dearest tests as a Markdown table (.md)"
    )


class Costs:
    """Adds up what tests cost, from their reports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report):
        if report.when != "teardown":  # which has what was noted before it
            return
        for name, value in report.user_properties:
            if name.endswith(" wall"):
                self.wall[report.nodeid] += value
            elif name.endswith(" cpu"):
                self.cpu[report.nodeid] += value

    def pytest_sessionfinish(self):
        rows = ["| test | seconds | of them computing |", "|---|---|---|"]
        for name in sorted(self.wall, key=lambda n: -self.wall[n])[:_LISTED]:
            rows.append(f"| `{name.removeprefix('tests/')}` | {self.wall[name]:.1f} | {self.cpu[name]:.1f} |")
        self.path.write_text("\n".join(rows) + "\n")


def pytest_configure(config):
    path = config.getoption("--costs")
    if path and path.suffix != ".md":
        raise pytest.UsageError(f"--costs takes a file to write that ends in .md, got {path}")
    if path and not hasattr(config, "workerinput"):
        path.parent.mkdir(parents=True, exist_ok=True)
        config.pluginmanager.register(Costs(path), "costs")
