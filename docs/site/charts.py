"""Mermaid's charts are shown as the pictures that docs/figures/charts.py drew of them, so that no script is needed.

A hook of MkDocs. A picture of another text than the page's ends the build.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

_FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.M | re.S)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Puts the picture in place of the chart's text."""
    name = posixpath.splitext(posixpath.basename(page.file.src_uri))[0]
    picture = Path(config.docs_dir) / "figures" / f"chart_{name}.svg"

    def shown(fence: re.Match[str]) -> str:
        digest = hashlib.sha256(fence[1].encode()).hexdigest()
        if not picture.is_file() or digest not in picture.read_text():
            raise PluginError(f"{page.file.src_uri}: its chart has changed; docs/figures/charts.py draws it")
        return f"![chart, described below](figures/{picture.name}){{ .chart }}"

    return _FENCE.sub(shown, markdown)
