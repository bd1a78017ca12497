"""Notebooks become pages of the site, as they are in git: text, code, and what the code printed and drew.

A hook of MkDocs. Nothing is run when the site is built.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PICTURES = {"image/webp": "webp", "image/jpeg": "jpg", "image/png": "png"}
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class NotebookFile(File):
    """A notebook that MkDocs takes for a page, and which links to the notebook lead to."""

    def is_documentation_page(self) -> bool:
        """It is."""
        return True


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Puts a page and its pictures in place of each notebook."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text, pictures = page_of(json.loads(file.content_string), file.name)
        made = NotebookFile(file.src_uri, file.src_dir, config.site_dir, config.use_directory_urls)
        made.content_string = text
        files.remove(file)
        files.append(made)
        for name, content in pictures.items():
            place = posixpath.join(posixpath.dirname(file.src_uri), name)
            files.append(File.generated(config, place, content=content))
    return files


def page_of(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook, and its pictures by the names that it has for them."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip()
        parts.append(source if cell["cell_type"] == "markdown" else _fenced(source, "python"))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kind = next((kind for kind in _PICTURES if kind in data), None)
            if kind:
                picture = f"{name}_{len(pictures) + 1}.{_PICTURES[kind]}"
                pictures[picture] = base64.b64decode("".join(data[kind]))
                words = output["metadata"].get(kind, {}).get("alt", "what the code above draws")
                parts.append(f"![{words}]({picture})")
            else:
                told = "".join(output.get("text", data.get("text/plain", [])))
                parts.append(_fenced(_COLOURS.sub("", told).rstrip(), "text"))
    return "\n\n".join(filter(None, parts)) + "\n", pictures


def _fenced(text: str, language: str) -> str:
    """A block of code; nothing for no text."""
    return f"```{language}\n{text}\n```" if text else ""
