"""Known public weights: where they are, how they are checked, what they are for and under which licence.

To add a file, add an entry to `ZOO`. A sum is written down only where two sources agree on it, and figures only as they
were published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from icmformer.errors import WeightsError


@dataclass(frozen=True)
class Entry:
    """A public file.

    Attributes:
        name: What `fetch` takes; the file keeps it, so it is also its name on the search path.
        what: What it is.
        use: To `serve` as it is, or to `start` a training.
        networks: Registered networks that it belongs to or can start.
        licence: That of the weights, and who declares it.
        url: The file's address; where `by_hand`, a page's.
        size: Bytes, where known.
        sha256: Where known.
        figures: Published figures, and where they are quoted from.
        note: What else one should know.
        by_hand: It has no address that a program could fetch it from.
    """

    name: str
    what: str
    use: Literal["serve", "start"]
    networks: tuple[str, ...]
    licence: str
    url: str
    size: int | None = None
    sha256: str | None = None
    figures: str = ""
    note: str = ""
    by_hand: bool = False

    @property
    def file(self) -> str:
        """The name of the file, with its suffix."""
        return self.name + (".npz" if urlsplit(self.url).path.endswith(".npz") else ".pth")


_MAE_LICENCE = "CC BY-NC 4.0 (MAE's repository)"
_SIMPLECLICK_LICENCE = "none declared for the weights; they start from MAE's, which are CC BY-NC 4.0"
_DRIVE = "https://drive.google.com/drive/folders/1qpK0gtAPkVMF7VC42UA9XF4xMWr5KJmL"
_META = "https://dl.fbaipublicfiles.com"
_SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
_VITS = {"base": "B", "large": "L", "huge": "H"}
_FIGURES = {
    ("cocolvis", "base"): "NoC85/NoC90, COCO+LVIS training, as quoted in MFP (CVPR 2024): GrabCut 1.38/1.48, "
    "Berkeley 1.36/1.97, DAVIS 3.66/5.06, SBD 3.43/5.62"
}


def _of_plain_vit(size: str) -> tuple[str, ...]:
    return f"icmformer_vit_{size}448", f"simpleclick_vit_{size}448"


def _simpleclick(data: str, told: str, size: str) -> Entry:
    return Entry(
        f"{data}_vit_{size}",
        f"SimpleClick ViT-{_VITS[size]}, trained on {told}",
        "serve",
        (f"simpleclick_vit_{size}448",),
        _SIMPLECLICK_LICENCE,
        _DRIVE,
        figures=_FIGURES.get((data, size), ""),
        note=f"also starts the training of icmformer_vit_{size}448",
        by_hand=True,
    )


def _mae(size: str, length: int | None = None, sha256: str | None = None, note: str = "") -> Entry:
    name = f"mae_pretrain_vit_{size}"
    url = f"{_META}/mae/pretrain/{name}.pth"
    return Entry(
        name, f"MAE's ViT-{_VITS[size]}", "start", _of_plain_vit(size), _MAE_LICENCE, url, length, sha256, note=note
    )


def _dinov2(letter: str, networks: tuple[str, ...], length: int | None = None, sha256: str | None = None) -> Entry:
    model = f"dinov2_vit{letter}14"
    return Entry(
        f"{model}_pretrain",
        f"DINOv2's ViT-{letter.upper()}/14",
        "start",
        networks,
        "Apache 2.0 (DINOv2's repository)",
        f"{_META}/dinov2/{model}/{model}_pretrain.pth",
        length,
        sha256,
    )


_MD5 = "its publisher gives the beginning of its md5, which `training.data.download fetch` compares"
ZOO: tuple[Entry, ...] = (
    *(_simpleclick("cocolvis", "COCO+LVIS", size) for size in _VITS),
    *(_simpleclick("sbd", "SBD", size) for size in _VITS),
    Entry(
        "sbd_vit_base_ufcr",
        "SimpleClick ViT-B, trained further on SBD by U-CFR's authors",
        "serve",
        ("simpleclick_vit_base448",),
        "none declared; it starts from SimpleClick's, and they from MAE's, which are CC BY-NC 4.0",
        "https://github.com/elidandar/UCFR-Interactive-Segmentation/releases/download/v0.1.0/sbd_vit_base_ufcr.pth",
        note="377 MB as its authors say; the layout was read off their code, the file itself was never tried. "
        "Its second head, for edges, is left out",
    ),
    _mae("base", 343_249_461, "aec5f0b68e5f3193a00b07bc65a37440db549c15b36b8bea242606cc40c4bc5d"),
    _mae("large", note=_MD5),
    _mae("huge", note=_MD5),
    Entry(
        "dino_vitbase16_pretrain",
        "DINO's ViT-B/16",
        "start",
        _of_plain_vit("base"),
        "Apache 2.0 (DINO's repository)",
        f"{_META}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        343_242_485,
        "bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e",
    ),
    _dinov2(
        "s",
        ("icmformer_vit_small448",),
        88_283_115,
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    ),
    _dinov2(
        "b", _of_plain_vit("base"), 346_378_731, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"
    ),
    _dinov2("l", _of_plain_vit("large")),
    Entry(
        "augreg_vit_base_patch16_in21k",
        "AugReg's ViT-B/16, trained on ImageNet-21k",
        "start",
        _of_plain_vit("base"),
        "Apache 2.0 (vision_transformer's repository)",
        "https://storage.googleapis.com/vit_models/augreg/"
        "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz",
    ),
    Entry(
        "swin_base_patch4_window12_384_22k",
        "Swin-B, trained on ImageNet-22k",
        "start",
        ("icmformer_swin_base384",),
        "MIT (Swin-Transformer's repository)",
        f"{_SWIN}/swin_base_patch4_window12_384_22k.pth",
    ),
    Entry(
        "swin_small_patch4_window7_224",
        "Swin-S, trained on ImageNet-1k",
        "start",
        ("icmformer_swin_small224",),
        "MIT (Swin-Transformer's repository)",
        f"{_SWIN}/swin_small_patch4_window7_224.pth",
    ),
)
"""All entries, those to serve first."""

REMARKS = (
    "iCMFormer's own weights were announced and never published.",
    "CC BY-NC means no commercial use, arguably also of what is trained from such weights.",
    "SAM and MobileSAM are other networks, which this package does not serve.",
)


def find(name: str) -> Entry | None:
    """The entry of a name, or None."""
    return next((entry for entry in ZOO if entry.name == name), None)


def check_fetchable(entry: Entry) -> None:
    """Nothing, for a file that a program can fetch.

    Raises:
        WeightsError: It must be downloaded by hand; the text says from where, and what to do then.
    """
    if entry.by_hand:
        raise WeightsError(
            f"{entry.name} has no address of its own, and no sum of it is known: download {entry.file} by hand from "
            f"{entry.url}, then convert it: icmformer weights convert {entry.file} -o weights/{entry.name} --store fp16"
        )


def listing() -> str:
    """The zoo, for people."""
    lines: list[str] = []
    for use, title in (("serve", "To serve as they are"), ("start", "To start a training (--start)")):
        lines.append(("\n" if lines else "") + title)
        for entry in ZOO:
            if entry.use == use:
                lines += _described(entry)
    return "\n".join([*lines, "", *REMARKS, "icmformer weights fetch NAME downloads one into the cache folder."])


def _described(entry: Entry) -> list[str]:
    size = f"{entry.size:,} bytes" if entry.size else "size not known"
    address = f"by hand from {entry.url}" if entry.by_hand else entry.url
    told = [
        f"  {entry.name}  ({size})",
        f"      {entry.what}; for {', '.join(entry.networks)}",
        f"      licence: {entry.licence}",
        f"      {address}",
        f"      sha256 {entry.sha256}" if entry.sha256 else "      no sha256 is known, so it cannot be checked",
    ]
    return told + [f"      {text}" for text in (entry.figures, entry.note) if text]
