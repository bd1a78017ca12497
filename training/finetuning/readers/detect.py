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
from training.finetuning.readers.annotated_image import AnnotatedImage, AnnotationError, ImageFinder
from training.finetuning.readers.coco import is_coco, read_coco
from training.finetuning.readers.cvat import is_cvat, read_cvat
from training.finetuning.readers.label_studio import is_label_studio, read_label_studio

_UNKNOWN = "is no export that is known: COCO JSON, Label Studio JSON, CVAT for images 1.1 (XML), images/ and masks/"


def read_annotations(path: Path, images: Path | None = None, unpack: Path | None = None) -> Iterator[AnnotatedImage]:
    """The annotated images of an export.

    Args:
        path: COCO's or Label Studio's JSON, CVAT's XML, a zip that holds one of them, or a folder of `images/` and
            `masks/` (or with one of the others in it).
        images: Where the images are; by default beside the file, or in the zip.
        unpack: Where a zip is unpacked.

    Raises:
        AnnotationError: None of these, or one that is damaged; the text says what.
    """
    if path.is_dir():
        path = _inner(path)
        if (path / "images").is_dir() and (path / "masks").is_dir():
            yield from _read_folder(path)
        else:
            yield from read_annotations(_only_file(path), images or path)
    elif not path.is_file():
        raise AnnotationError(f"there is no {path}")
    elif zipfile.is_zipfile(path):
        if unpack is None:
            raise AnnotationError(f"{path} is a zip: unpack it first")
        _unpack(path, unpack)
        yield from read_annotations(unpack, images)
    elif not path.stat().st_size:
        raise AnnotationError(f"{path} is empty")
    else:
        yield from _read_file(path, ImageFinder(images or path.parent))


def _read_folder(path: Path) -> Iterator[AnnotatedImage]:
    """The pairs of `images/` and `masks/` that hold an object."""
    folder = Folder(path)
    for index, record in enumerate(folder.records):
        if record.labels:
            yield AnnotatedImage(record.key, folder.image_file(index), folder.load(index)[1])


def _read_file(path: Path, finder: ImageFinder) -> Iterator[AnnotatedImage]:
    """The images of a JSON or XML file."""
    hint = ""
    try:
        if path.suffix.lower() == ".xml":
            root = _parsed(path)
            if is_cvat(root):
                yield from read_cvat(root, finder)
                return
        elif path.suffix.lower() == ".json":
            content = json.loads(path.read_text())
            if is_coco(content):
                yield from read_coco(content, finder)
                return
            if is_label_studio(content):
                yield from read_label_studio(content, finder)
                return
            hint = " (of Label Studio's exports JSON, not JSON-MIN)" if isinstance(content, list) else ""
    except AnnotationError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ElementTree.ParseError) as error:
        raise AnnotationError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    raise AnnotationError(f"{path} {_UNKNOWN}{hint}")


def _parsed(path: Path) -> ElementTree.Element:
    text = path.read_text()
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AnnotationError(f"{path} declares entities, which exports do not")
    return ElementTree.fromstring(text)


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
    """Unpacks a zip, which anybody may have made, into a folder, which is emptied before."""
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
                raise AnnotationError(f"{archive} holds {entry.filename!r}, which lies outside its folder")
        file.extractall(folder)
