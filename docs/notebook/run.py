"""Runs docs/notebook/first_steps.ipynb and keeps what it printed and drew, for who reads it on GitHub or the site.

python docs/notebook/run.py

What it writes lands in a temporary folder. A test runs the notebook in the same way.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("first_steps.ipynb")
SECONDS = 900  # for one cell, on a machine that has other work


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in a folder, without times and the names of this machine's Python.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell that fails.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where the command `icmformer` is
    client = NotebookClient(
        notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, "PATH": beside})
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    return notebook


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs of a cell with what it printed in one piece, however it came."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if "text" in output:
            output.text = output.text.replace("\r\n", "\n")
        if "text" in output and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        nbformat.write(executed(Path(made)), NOTEBOOK)
