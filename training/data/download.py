"""What to fetch for training and benchmarks, from where, and whether it arrived whole.

`python -m training.data.download` prints the list and touches no network. `... check DIR` compares the files in DIR
with their published sizes and sums, and reads through archives that have none. `... fetch NAME --to DIR` is the only
form that downloads: what it is asked for, going on where it stopped, kept only if it is what it should be.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from icmformer.errors import ConfigError

from ..command_line import command_parser, exit_status

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A published file.

    Attributes:
        url: Where it is.
        what: What it is, and what its licence is where that is known.
        size: Bytes, where known.
        digest: `md5:...` or `sha256:...`, or the beginning of one as its publisher gives it; where known.
    """

    url: str
    what: str
    size: int | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]


_COCO = "http://images.cocodataset.org"  # its certificate is another host's, so the sums are all there is
_LVIS = "https://dl.fbaipublicfiles.com/LVIS"
_BENCHMARKS = "https://github.com/saic-vul/fbrs_interactive_segmentation/releases/download/v1.0"
_MAE = "https://dl.fbaipublicfiles.com/mae/pretrain"
_PHOTOS_LICENCE = "photos are Flickr's, each under its own licence"

SOURCES: dict[str, tuple[Source, ...]] = {
    "COCO+LVIS, for training": (
        Source(
            f"{_COCO}/zips/train2017.zip",
            f"COCO's photos; {_PHOTOS_LICENCE}",
            19_336_861_798,
            "md5:cced6f7f71b7629ddf16f17bbcfab6b2",
        ),
        Source(
            f"{_COCO}/zips/val2017.zip",
            "more of them: LVIS draws its photos from both; put them into one folder",
            815_585_330,
            "md5:442b8da7639aecaf257c1dceb8ba8c80",
        ),
        Source(
            f"{_LVIS}/lvis_v1_train.json.zip", "LVIS v1; CC BY 4.0", 350_264_821, "md5:4410d837f71203af226950447ef9d422"
        ),
        Source(
            f"{_LVIS}/lvis_v1_val.json.zip", "LVIS v1; CC BY 4.0", 64_026_968, "md5:87734a7f895990b9552075d7ce723e27"
        ),
        Source(
            f"{_COCO}/annotations/panoptic_annotations_trainval2017.zip",
            "COCO's panoptic annotations; CC BY 4.0",
            860_725_834,
            "sha256:c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
        ),
        Source(
            f"{_COCO}/annotations/annotations_trainval2017.zip",
            "COCO's instances, where there is no panoptic annotation; CC BY 4.0",
            252_907_541,
            "md5:f4bbac642086de4f52a3fdda2de5fa2c",
        ),
        Source(
            "https://github.com/saic-vul/ritm_interactive_segmentation/releases/download/v1.0/"
            "cocolvis_annotation.tar.gz",
            "the set as the community made it, instead of LVIS's and COCO's annotations",
        ),
    ),
    "SBD and Pascal VOC, for training and as benchmarks": (
        Source(
            "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
            f"SBD; {_PHOTOS_LICENCE}",
            1_419_539_633,
            "md5:82b4d87ceb2ed10f6038a1cba92111cb",
        ),
        Source(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            f"Pascal VOC 2012; {_PHOTOS_LICENCE}",
            1_999_639_040,
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
        ),
    ),
    "benchmarks": tuple(
        Source(f"{_BENCHMARKS}/{name}.zip", f"{name}, as the published code reads it")
        for name in ("GrabCut", "Berkeley", "DAVIS", "COCO_MVal")
    ),
    "backbones to begin with": (
        Source(f"{_MAE}/mae_pretrain_vit_base.pth", "MAE's ViT-B; CC BY-NC 4.0", None, "md5:8cad7c"),
        Source(f"{_MAE}/mae_pretrain_vit_large.pth", "MAE's ViT-L; CC BY-NC 4.0", None, "md5:b8b06e"),
        Source(f"{_MAE}/mae_pretrain_vit_huge.pth", "MAE's ViT-H; CC BY-NC 4.0", None, "md5:9bdbb0"),
        Source(
            "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window12_384_22k.pth",
            "Swin-B; MIT",
        ),
        Source(
            "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth",
            "Swin-S; MIT",
        ),
    ),
}


def listing() -> str:
    """The list, for people."""
    lines = ["What there is to fetch; this command has fetched nothing."]
    for title, sources in SOURCES.items():
        lines.append(f"\n{title}")
        for source in sources:
            size = _human(source.size) if source.size else "size not known"
            lines += [f"  {source.name}  ({size})", f"      {source.what}", f"      {source.url}"]
            lines.append(f"      {source.digest or 'no sum is published: checked by reading the archive through'}")
    lines.append("\ncheck DIR compares what you fetched with this list; fetch NAME --to DIR fetches a file.")
    return "\n".join(lines)


def verify(path: Path, source: Source) -> str:
    """Checks a file.

    Returns:
        What was checked, for people.

    Raises:
        ConfigError: It is not what was published; the text says how.
    """
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        short = "cut short" if size < source.size else "of another size"
        raise ConfigError(f"{path} is {short}: {size:,} bytes, published ones are {source.size:,}; fetch it again")
    kind, _, expected = (source.digest or "sha256:").partition(":")
    actual = _digest(path, kind)
    if source.digest:
        if not actual.startswith(expected):
            raise ConfigError(f"{path} has the {kind} {actual}, published is {expected}; fetch it again")
        whole = len(expected) == len(actual)
        return f"size and {kind} as published" if source.size else f"{kind} {'' if whole else 'begins '}as published"
    _read_through(path)
    return f"read through without an error; nobody published its sum, here it is: {kind} {actual}"


def _digest(path: Path, kind: str) -> str:
    found = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file, _bar(path.stat().st_size, 0, f"{path.name}: {kind}") as bar:
        while block := file.read(_BLOCK):
            found.update(block)
            bar.update(len(block))
    return found.hexdigest()


def _read_through(path: Path) -> None:
    """An archive's own sums are its last resort."""
    try:
        if zipfile.is_zipfile(path):  # torch's files are such too
            with zipfile.ZipFile(path) as archive:
                wrong = archive.testzip()
            if wrong:
                raise ConfigError(f"{path} is damaged: {wrong} in it has another sum; fetch it again")
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isfile() else None
                    while content and content.read(_BLOCK):
                        pass
        else:
            raise ConfigError(f"{path} is no archive; was a page with an error saved in its place?")
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        raise ConfigError(f"{path} is damaged ({error}); fetch it again") from error


def fetch(source: Source, folder: Path) -> Path:
    """Downloads a file, going on with what an earlier try left, and checks it.

    Returns:
        Its path.

    Raises:
        ConfigError: It cannot be had, does not fit on the disk, or is not what was published; in the last case what
            came is kept beside as `NAME.wrong`, and the next try begins anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / source.name, folder / f"{source.name}.part"
    if target.exists():
        print(f"{target} is there: {verify(target, source)}")
        return target
    _room(folder, (source.size or 0) - (part.stat().st_size if part.exists() else 0))
    try:
        _transfer(source, part)
    except (OSError, HTTPException, ValueError) as error:
        raise ConfigError(f"{source.url} did not come ({error}); run the same command to go on") from error
    try:
        told = verify(part, source)
    except ConfigError:
        part.replace(folder / f"{source.name}.wrong")
        raise
    part.replace(target)
    print(f"{target}: {told}")
    return target


def _transfer(source: Source, part: Path) -> None:
    done = part.stat().st_size if part.exists() else 0
    if done and done == source.size:
        return
    if source.size is not None and done > source.size:
        done = 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        answer = urlopen(Request(source.url, headers=headers), timeout=60)
    except HTTPError as error:
        if not done or error.code != 416:  # nothing lies beyond what is there: it is complete, or another file's
            raise
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(done):
            return
        part.unlink()
        _transfer(source, part)
        return
    with answer:
        if done and answer.status != 206:  # the server begins anew
            done = 0
        total = done + int(answer.headers.get("Content-Length") or 0)
        with part.open("ab" if done else "wb") as file, _bar(total, done, source.name) as bar:
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    if part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(f"{folder} has room for {_human(free)}, the file needs {_human(needed)}")


def _bar(total: int, done: int, text: str) -> tqdm[Any]:
    return tqdm(total=total or None, initial=done, unit="B", unit_scale=True, desc=text, dynamic_ncols=True)


def _human(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _known(names: list[str]) -> list[Source]:
    every = [source for sources in SOURCES.values() for source in sources]
    by_name = {source.name: source for source in every}
    short = {source.name.partition(".")[0]: source.name for source in every}
    names = [short.get(name, name) for name in names]
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)} is not on the list: {', '.join(by_name)}")
    return [by_name[name] for name in names] or list(by_name.values())


def _check(args: argparse.Namespace) -> int:
    wanted = [source for source in _known(args.names) if args.names or (args.folder / source.name).is_file()]
    if not wanted:
        raise ConfigError(f"{args.folder} holds no file of the list")
    wrong = 0
    for source in wanted:
        path = args.folder / source.name
        try:
            if not path.is_file():
                raise ConfigError(f"{path} is missing: {source.url}")
            print(f"ok     {path}: {verify(path, source)}", flush=True)
        except ConfigError as error:
            wrong += 1
            print(f"WRONG  {error}", flush=True)
    return 1 if wrong else 0


def _fetch(args: argparse.Namespace) -> int:
    for source in _known(args.names):
        fetch(source, args.to)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("data.download", __doc__)
    actions = parser.add_subparsers(metavar="ACTION")
    check = actions.add_parser("check", help="compare files with their published checksums")
    check.add_argument(
        "folder", type=Path, metavar="DIR", help="where they are; those of the list that are there are checked"
    )
    check.add_argument("names", nargs="*", metavar="NAME", help="only these, which must be there (all that are there)")
    check.set_defaults(run=_check)
    get = actions.add_parser("fetch", help="download files, and check them")
    get.add_argument("names", nargs="+", metavar="NAME", help="as the list has them")
    get.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for them")
    get.set_defaults(run=_fetch)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        0, 1 where a file is not what was published, 2 for a mistake, 130 for Ctrl-C.
    """
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] | None = getattr(args, "run", None)
    if run is None:
        print(listing())
        return 0
    chosen = run
    return exit_status(lambda: chosen(args), "stopped; run the same command to go on", getattr(args, "to", None))


if __name__ == "__main__":
    sys.exit(main())
