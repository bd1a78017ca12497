"""Links of the pages to files that are not on the site go to the repository's address; the pages stay as they are.

A hook of MkDocs. A link to a file that is not there ends the build. Anchors are those that GitHub makes of headings.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

_CODE_OR_LINK = re.compile(
    r"(?P<code>^ *(?P<fence>`{3,}).*?^ *(?P=fence)`* *$|`[^`\n]+`)"
    r"|(?P<mark>!?)(?P<text>\[(?:[^\[\]]|\[[^\[\]]*\](?:\([^)\s]*\))?)*\])\((?P<target>[^)\s]+)\)",
    re.M | re.S,
)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|[#/]", re.I)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Makes the anchors of headings."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page outside code."""
    branch = (config.edit_uri or "").split("/")[1]
    root = Path(config.config_file_path).parent.resolve()
    repository = (config.repo_url or "").rstrip("/")

    def address(found: re.Match[str]) -> str:
        target = found["target"]
        if found["code"] or _ELSEWHERE.match(target):
            return found[0]
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), path))
        file = files.get_file_from_path(place)
        if file is not None and file.inclusion.is_included():
            return found[0]
        where = (Path(config.docs_dir) / place).resolve()
        if not where.exists() or not where.is_relative_to(root):
            raise PluginError(f"{page.file.src_uri}: there is no {target}")
        if found["mark"]:
            raise PluginError(f"{page.file.src_uri}: the picture {target} is not on the site; put it below docs/")
        kind = "tree" if where.is_dir() else "blob"
        inside = where.relative_to(root).as_posix()
        return f"{found['text']}({repository}/{kind}/{branch}/{inside}{'#' if anchor else ''}{anchor})"

    return _CODE_OR_LINK.sub(address, markdown)
