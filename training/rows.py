"""Results object by object, in a file that grows while they come and tells a resumed run what is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError


def resume(log: Path, run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows already there, by name; a last line cut short by a kill is dropped. Starts the file where there is none.

    Args:
        log: The file: a line that tells the run, then a line an object.
        run: What decides the results.

    Raises:
        ConfigError: The file holds another run.
    """
    header = json.dumps({"run": dict(run)})
    lines = log.read_text().splitlines() if log.exists() else []
    if not lines:
        log.write_text(header + "\n")
        return {}
    if lines[0] != header:
        raise ConfigError(f"{log} holds another run (other weights, data or settings); give another --out or delete it")
    rows = {}
    kept = [header]
    for line in lines[1:]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["name"]] = row
        kept.append(line)
    log.write_text("\n".join(kept) + "\n")
    return rows
