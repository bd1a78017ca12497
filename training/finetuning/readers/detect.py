"""Finds out what an export is, and reads it."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from training.data.folders import Folder
from training.finetuning.readers.coco import read_coco
from training.finetuning.readers.cvat import read_cvat
from training.finetuning.readers.label_map import AnnotatedPhoto, AnnotationError, ImageFinder
from training.finetuning.readers.label_studio import read_label_studio

_UNKNOWN = "is no export that is known: COCO JSON, Label Studio JSON, CVAT for images 1.1 (XML), images/ and masks/"


def read_annotations(path: Path, images: Path | None = None, unpack: Path | None = None) -> Iterator[AnnotatedPhoto]:
    """The annotated photos of an export.

    Args:
        path: COCO's or Label Studio's JSON, CVAT's XML, a zip that holds one of them, or a folder of `images/` and
            `masks/` (or with one of the others in it).
        images: Where the photos are; by default beside the file, or in the zip.
        unpack: Where a zip is unpacked.

    Raises:
        AnnotationError: None of these, or one that is damaged; the text says what.
    """
    if path.is_dir():
        path = _inner(path)
        if (path / "images").is_dir() and (path / "masks").is_dir():
            folder = Folder(path)
            for index, record in enumerate(folder.records):
                if record.labels:
                    yield AnnotatedPhoto(record.key, folder.image_file(index), folder.load(index)[1])
            return
        yield from read_annotations(_only_file(path), images or path)
        return
    if not path.is_file():
        raise AnnotationError(f"there is no {path}")
    if zipfile.is_zipfile(path):
        if unpack is None:
            raise AnnotationError(f"{path} is a zip: unpack it first")
        _unpack(path, unpack)
        yield from read_annotations(unpack, images)
        return
    if not path.stat().st_size:
        raise AnnotationError(f"{path} is empty")
    finder = ImageFinder(images or path.parent)
    try:
        if path.suffix.lower() == ".xml":
            text = path.read_text()
            if "<!DOCTYPE" in text or "<!ENTITY" in text:
                raise AnnotationError(f"{path} declares entities, which no export does")
            root = ElementTree.fromstring(text)
            if root.tag != "annotations":
                raise AnnotationError(f"{path} {_UNKNOWN}")
            yield from read_cvat(root, finder)
            return
        if path.suffix.lower() != ".json":
            raise AnnotationError(f"{path} {_UNKNOWN}")
        content = json.loads(path.read_text())
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            yield from read_coco(content, finder)
            return
        if isinstance(content, list) and content and all(isinstance(task, dict) and "data" in task for task in content):
            yield from read_label_studio(content, finder)
            return
    except (ValueError, KeyError, TypeError, AttributeError, ElementTree.ParseError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    hint = " (of Label Studio's exports JSON, not JSON-MIN)" if isinstance(content, list) else ""
    raise AnnotationError(f"{path} {_UNKNOWN}{hint}")


def _inner(folder: Path) -> Path:
    """The one folder that an archive puts everything into, or the folder itself."""
    if (folder / "images").is_dir():
        return folder
    inside = [p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX"))]
    if len(inside) == 1 and inside[0].is_dir() and (inside[0] / "images").is_dir() and (inside[0] / "masks").is_dir():
        return inside[0]
    return folder


def _only_file(folder: Path) -> Path:
    every = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in (".json", ".xml") and p.is_file()]
    found = [p for p in every if not any(part.startswith((".", "__MACOSX")) for part in p.relative_to(folder).parts)]
    if len(found) != 1:
        told = f"{len(found)} JSON or XML files" if found else "neither images/ and masks/ nor a JSON or XML file"
        raise AnnotationError(f"{folder} holds {told}; name the one that is meant")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _extract(archive, folder)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise AnnotationError(f"{archive} cannot be unpacked: {error}") from error


def _extract(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        folder.parent.mkdir(parents=True, exist_ok=True)
        needed, free = sum(entry.file_size for entry in file.infolist()), shutil.disk_usage(folder.parent).free
        if needed > free:
            raise AnnotationError(f"{archive} unpacks to {needed / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f}")
        for entry in file.infolist():
            if Path(entry.filename).is_absolute() or ".." in Path(entry.filename).parts:
                raise AnnotationError(f"{archive} holds {entry.filename!r}, which leads out of its folder")
        file.extractall(folder)
