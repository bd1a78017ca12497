"""Lists as Python-Markdown wants them: what belongs to an item is indented by four, where GitHub takes the width of its
marker, and an item after one of several paragraphs follows an empty line.

A hook of MkDocs.
"""

from __future__ import annotations

import re

_ITEM = re.compile(r"(?:[-*+]|\d+\.) +(?=\S)")
_FENCE = re.compile(r"`{3,}|~{3,}")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Indents a page's lists."""
    lines: list[str] = []
    width, several = 0, False  # of the item that a line may belong to: its marker's width, whether it has paragraphs
    fence = ""
    for line in markdown.splitlines():
        if fence:
            fence = "" if line.startswith(fence) else fence
        elif found := _FENCE.match(line):
            fence, width = found[0], 0
        elif item := _ITEM.match(line):
            if width and several and lines[-1].strip():
                lines.append("")
            width, several = len(item[0]), False
        elif width and line.startswith(" " * width):
            several = several or not lines[-1].strip()
            line = " " * max(0, 4 - width) + line
        elif line.strip():
            width = 0
        lines.append(line)
    return "\n".join(lines) + "\n"
