"""Finds out what an export is, and reads it."""

from __future__ import annotations

import codecs
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .annotations import AnnotatedPhoto, AnnotationError
from .choice import choose
from .coco import is_coco, read_coco
from .cvat import is_cvat, parse_cvat, read_cvat
from .files import ANNOTATION_SUFFIXES, Files, folder_files, unpacked
from .label_studio import is_label_studio, read_label_studio
from .mask_folder import has_mask_folder, read_mask_folder
from .photo_finder import PhotoFinder, name_parts
from .reading_report import ReadingReport

_UNKNOWN = "is no export that is known: COCO JSON, Label Studio JSON, CVAT XML, or a folder of images/ and masks/"
_LARGEST = 4 << 30
_BOMS = (  # the longer ones first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BY_ZEROS = {
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
    (False, True): "utf-16-le",
    (True, False): "utf-16-be",
}


@dataclass(frozen=True)
class Export:
    """Where an export is, and what it does not say of itself.

    Attributes:
        path: COCO's or Label Studio's JSON, CVAT's XML, a zip or folder that holds one or several of one kind, or a
            folder of `images/` and `masks/`.
        images: Folder of the photos; by default beside the file, in the zip or folder.
        file: Which file of a zip or folder is meant, by its name, where several kinds are in it.
        label_config: Label Studio's labelling config, which tells the photos of a page apart.
        predictions: Takes predictions of Label Studio's tasks that nobody annotated.
    """

    path: Path
    images: Path | None = None
    file: str | None = None
    label_config: Path | None = None
    predictions: bool = False


def read_annotations(
    export: Export, unpack: Path, report: ReadingReport, run: Path | None = None
) -> list[AnnotatedPhoto]:
    """The annotated photos of an export, each once, none of them drawn yet.

    Args:
        export: What to read.
        unpack: Folder that a zip is unpacked into; nothing is written elsewhere.
        report: Is told what was passed over and decided.
        run: The run's folder, in which nothing is looked for.

    Raises:
        AnnotationError: Not an export that is known, one that is damaged as a whole, or one without a photo that can
            be used; the text says what.
    """
    path = export.path
    if path.is_dir():
        files = folder_files(path, report, run)
    elif not path.is_file():
        raise AnnotationError(f"there is no {path}")
    elif zipfile.is_zipfile(path):
        files = unpacked(path, unpack, report)
    else:
        if not path.stat().st_size:
            raise AnnotationError(f"{path} is empty")
        with path.open("rb") as file:
            if file.read(4) == b"PK\3\4":
                raise AnnotationError(f"{path} is a zip that is damaged or cut short")
        files = {path.name: path}
    finder = None
    if export.file is None and has_mask_folder(files):
        photos = list(read_mask_folder(files, report))
    else:
        found = _recognised_as_one(export, files, report)
        finder = _finder(export, files, report, run)
        photos = list(_read_files(export, found, finder, report))
    chosen = choose(photos, report, finder)
    if not chosen:
        raise AnnotationError("\n".join([f"{path} has no photo that can be used", *report.lines()]))
    return chosen


def _recognised_as_one(export: Export, files: Files, report: ReadingReport) -> list[tuple[str, _Reader, Any]]:
    """Name, reader and content of an export's annotation files, which must be of one kind."""
    single = export.path in files.values()
    found = list(_recognised(export, files, single, report))
    if not found:
        raise AnnotationError("\n".join([f"{export.path} {_UNKNOWN}{_hint(files, single)}", *report.lines()]))
    if len({reader.kind for _, reader, _ in found}) > 1:
        names = ", ".join(f"{name} ({reader.kind})" for name, reader, _ in found[:6])
        raise AnnotationError(f"{export.path} holds exports of several kinds: {names}; name one with --file")
    return found


def _finder(export: Export, files: Files, report: ReadingReport, run: Path | None) -> PhotoFinder:
    """Finds photos in the folder that the user named, else beside the file, or in the zip or folder."""
    if export.images is None and export.path not in files.values():
        return PhotoFinder(export.path, files, report)
    folder = export.images or export.path.parent
    return PhotoFinder(folder, folder_files(folder, without=run), report)


def _read_files(
    export: Export, found: list[tuple[str, _Reader, Any]], every: PhotoFinder, report: ReadingReport
) -> Iterator[AnnotatedPhoto]:
    """The photos of annotation files; of files in several folders each has the photos of its own, if any are there."""
    config = None
    if export.label_config:
        data = _read(export.label_config)
        config = data.decode(_encoding(data) or "utf-8", "replace")
    folders = {PurePosixPath(name).parent for name, _, _ in found}
    for name, reader, content in found:
        finder = every if len(folders) == 1 else every.beside(PurePosixPath(name).parent)
        try:
            if reader is _STUDIO:
                use = export.predictions
                yield from read_label_studio(content, finder, report, name, config=config, use_predictions=use)
            else:
                yield from reader.read(content, finder, report, name)
        except RecursionError as error:
            raise AnnotationError(f"{name} is nested too deeply") from error


@dataclass(frozen=True)
class _Reader:
    kind: str
    read: Callable[..., Iterator[AnnotatedPhoto]]


_COCO, _CVAT = _Reader("COCO", read_coco), _Reader("CVAT", read_cvat)
_STUDIO = _Reader("Label Studio", read_label_studio)


def _recognised(
    export: Export, files: Files, single: bool, report: ReadingReport
) -> Iterator[tuple[str, _Reader, Any]]:
    """Name, reader and content of the files that are exports."""
    candidates = {n: p for n, p in files.items() if PurePosixPath(n).suffix.lower() in ANNOTATION_SUFFIXES}
    if export.file is not None:
        wanted = name_parts(export.file)
        candidates = {n: p for n, p in files.items() if name_parts(n)[-len(wanted) :] == wanted}
        if len(candidates) != 1:
            known = ", ".join([n for n in files if PurePosixPath(n).suffix.lower() in (".json", ".xml")][:10])
            raise AnnotationError(
                f"{len(candidates)} files of {export.path} are called {export.file} (--file); it has {known or 'none'}"
            )
    for name, path in candidates.items():
        try:
            content, reader = _parsed(path, name)
        except AnnotationError as error:
            if single or export.file is not None:
                raise
            report.skip("a file that is no export", name, str(error))
            continue
        if reader is None:
            report.skip("a file that is no export", name)
        else:
            yield name, reader, content


def _parsed(path: Path, name: str) -> tuple[Any, _Reader | None]:
    """A file's content, and what reads it.

    Raises:
        AnnotationError: JSON or XML that is damaged.
    """
    data = _read(path)
    encoding = _encoding(data)
    if encoding is None and data.lstrip()[:1] == b"<":  # XML says its encoding itself
        root = parse_cvat(data, name)
        return root, _CVAT if is_cvat(root) else None
    try:
        text = data.decode(encoding or "utf-8").lstrip()
        if text.startswith("<"):
            root = parse_cvat(text, name)
            return root, _CVAT if is_cvat(root) else None
        if text.startswith(("{", "[")):
            content = json.loads(text)
            return content, _COCO if is_coco(content) else _STUDIO if is_label_studio(content) else None
    except UnicodeError as error:
        raise AnnotationError(f"{name} cannot be read as a text: {error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{name} cannot be read: {error}") from error
    return None, None


def _encoding(data: bytes) -> str | None:
    """By the byte order mark, or by the zeros beside the first character, which is one of ASCII; None for others."""
    marked = next((encoding for mark, encoding in _BOMS if data.startswith(mark)), None)
    zeros = tuple(byte == 0 for byte in data[:4])
    return marked or _BY_ZEROS.get(zeros) or _BY_ZEROS.get(zeros[:2])


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise AnnotationError(f"{path} has more than {_LARGEST >> 30} GB")
        return path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}") from error


def _hint(files: Mapping[str, Path], single: bool) -> str:
    if single:
        return ""
    names: Sequence[str] = [n for n in files if PurePosixPath(n).suffix.lower() in (".json", ".xml")]
    return f" (looked at {', '.join(names[:5])})" if names else " (it holds no JSON and no XML file)"
