"""Where the time of a request goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Timings(dict[str, float]):
    """Stage name -> milliseconds, added up over repeats."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self[name] = self.get(name, 0.0) + 1000 * (time.perf_counter() - start)

    def within(self, name: str, parts: Mapping[str, float]) -> None:
        """Adds the parts of a stage, as `name.part`; the whole of them is the stage itself."""
        self.update({f"{name}.{part}": spent for part, spent in parts.items() if part != "total"})


def server_timing(timings: Mapping[str, float]) -> str:
    """Milliseconds by stage as a Server-Timing header (W3C Server Timing), which browsers show with a request."""
    return ", ".join(f"{stage};dur={spent:.1f}" for stage, spent in timings.items())
