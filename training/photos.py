"""The photos that a config trains on, as CSV: `python -m training.photos CONFIG --data-root DIR -o photos.csv`.

A row is a photo: its set, its source, and its licence, as the index of its zip shard says. Folders say nothing of
licences. Held-out photos are not listed. Whoever gives trained weights away can name with it, and with what the weights
of `--start` were trained on, where they come from.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

from .command_line import command_parser, exit_status, new_file
from .data.sources import open_images
from .loop.config import load_config

COLUMNS = ("set", "source", "licence")


def list_photos(config: Path, data_root: Path, out: Path) -> Counter[tuple[str, str]]:
    """Writes the list.

    Args:
        config: The training config.
        data_root: What its shards and folders are below.
        out: The CSV file, sorted by set and source.

    Returns:
        Photos by set and licence.

    Raises:
        ConfigError: A config, shard or folder that cannot be read.
    """
    data = load_config(config).data
    images = open_images(data_root, data.shards, data.permissive)
    rows = sorted((record.set, record.source or record.key, record.licence) for record in images.records)
    with out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return Counter((name, licence) for name, _, licence in rows)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("photos", __doc__)
    parser.add_argument("config", type=Path, help="training config (YAML)")
    parser.add_argument("--data-root", type=Path, required=True, help="what its shards and folders are below")
    parser.add_argument("-o", "--output", type=new_file(".csv"), required=True, help="CSV file to write")
    args = parser.parse_args(argv)
    return exit_status(lambda: _list(args), "stopped; the list is not complete", args.output)


def _list(args: argparse.Namespace) -> None:
    counts = list_photos(args.config, args.data_root, args.output)
    for (name, licence), number in sorted(counts.items()):
        print(f"{number:>8,}  {name}: {licence or 'no licence stated'}")
    print(f"{counts.total():>8,}  photos: {args.output}")


if __name__ == "__main__":
    sys.exit(main())
