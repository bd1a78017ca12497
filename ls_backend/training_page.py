"""How trainings stand, as a page for people, which Label Studio's own pages do not show."""

from __future__ import annotations

from html import escape
from typing import Any

_SECONDS = 5
_GOES_ON = "Start Training goes on with it, and so does the next start of the backend."
_STYLE = (
    "body{font:16px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}progress{width:100%}td,th{"
    "text-align:left;padding:.3em .8em .3em 0;vertical-align:top}"
)


def training_page(status: dict[str, Any]) -> str:
    """The page; it loads itself again while a training runs.

    Args:
        status: As `GET /training` has it.
    """
    state = str(status["state"])
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Training</title>",
        f"<meta http-equiv=refresh content={_SECONDS}>" if state == "running" else "",
        f"<style>{_STYLE}</style><h1>Training: {escape(state)}</h1>",
    ]
    if state == "running":
        done, total = int(status["done"]), int(status["total"])
        bar = f"<progress max={total} value={done}></progress>" if total else "<progress></progress>"
        amount = f" ({done:,} of {total:,})" if total else ""
        parts.append(f"<p>{escape(status['run'])}, {escape(status['stage'])}{amount}</p>{bar}")
        parts.append(f"<p><small>{escape(status['says'])}</small></p>")
    elif status.get("reason") and not status["runs"]:
        parts.append(f"<p>{escape(status['reason'])}</p>")
    if state == "none":
        parts.append("<p>Start Training is in a project's settings: Model, the three dots of the model.</p>")
    if status["runs"]:
        parts.append("<table><tr><th>run<th>last begun (UTC)<th>state<th>version<th>clicks to 90% IoU<th>why")
        parts += [_row(run) for run in status["runs"]]
        parts.append("</table>")
    return "".join(parts)


def _row(run: dict[str, Any]) -> str:
    why = run["reason"] or run["error"] or (_GOES_ON if run["state"] in ("interrupted", "stopped") else "")
    clicks = run["clicks"]
    told = f"{clicks['before']:.2f} before, {clicks['after']:.2f} after: {run['difference']}" if clicks else ""
    cells = str(run["since"])[:16].replace("T", " "), run["state"], run["version"], told, why
    name = escape(run["run"])
    first = f'<a href="{escape(run["report"])}">{name}</a>' if run["report"] else name
    return f"<tr><td>{first}" + "".join(f"<td>{escape(str(cell))}" for cell in cells)
