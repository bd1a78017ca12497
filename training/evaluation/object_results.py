"""Results object by object, in a file that grows while they come and tells a resumed run what is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError


def read_rows(log: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What the file's run is, and its rows by name.

    Raises:
        ConfigError: There is no such file, or it is another kind of file.
    """
    if not log.is_file():
        raise ConfigError(f"there is no {log}; give the --out folder of an evaluation")
    try:
        run, *rows = read_lines(log)
        return dict(run["run"]), {row["name"]: row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{log} is not what an evaluation writes ({error})") from error


def read_lines(log: Path) -> list[Any]:
    """The JSON of each line; a last line cut short by a kill is dropped.

    Raises:
        ValueError: Another line that is no JSON.
    """
    lines = log.read_text().splitlines()
    if lines:
        try:
            json.loads(lines[-1])
        except ValueError:
            lines = lines[:-1]
    return [json.loads(line) for line in lines]


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
