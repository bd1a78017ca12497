"""One set of the training shards as a folder of images/ and masks/: `python -m training.data.extract_set --set NAME`.

Takes the photos of that set out of all shards of a folder, the held-out ones too, as fine-tuning and evaluation read
them (`training.finetune --annotations DIR`, `training.evaluate --dataset label-maps --root DIR`).
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from icmformer.errors import ConfigError

from ..command_line import command_parser, exit_status
from .shards import open_shard


def extract_set(root: Path, name: str, out: Path) -> int:
    """Writes a set's photos and label maps as PNG.

    Args:
        root: Folder of the shards.
        name: Of the set.
        out: New folder.

    Returns:
        How many photos were written.

    Raises:
        ConfigError: No shards, no such set, or `out` is there already.
    """
    shards = [open_shard(path, include_held_out=True) for path in sorted(root.glob("*.zip"))]
    places = [(shard, i) for shard in shards for i, record in enumerate(shard.records) if record.set == name]
    if not places:
        sets = Counter(record.set for shard in shards for record in shard.records)
        known = ", ".join(f"{key} ({number})" for key, number in sorted(sets.items()))
        raise ConfigError(f"no shard of {root} has a set {name!r}; there are {known or 'no shards'}")
    if out.exists():
        raise ConfigError(f"{out} is there already; name a new folder")
    for kind in ("images", "masks"):
        (out / kind).mkdir(parents=True)
    for shard, index in tqdm(places, desc=name, unit="photo"):
        key = shard.records[index].key
        for kind, picture in zip(("images", "masks"), shard.load(index), strict=True):
            Image.fromarray(picture).save(out / kind / f"{key}.png")
    return len(places)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("data.extract_set", __doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the zip shards")
    parser.add_argument("--set", required=True, metavar="NAME", help="the set, as the shards' index calls it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for images/ and masks/")
    args = parser.parse_args(argv)

    def work() -> None:
        print(f"{extract_set(args.root, args.set, args.out)} photos: {args.out}")

    return exit_status(work, f"stopped; {args.out} is not complete")


if __name__ == "__main__":
    sys.exit(main())
