"""Fine-tunes a network on a team's own annotations: `icmformer finetune --annotations EXPORT --out RUN`.

Reads COCO JSON, CVAT for images or video 1.1, Label Studio JSON (also zipped) or a folder of images/ and masks/, or,
with --label-studio or --cvat, a project straight from the tool, whose token comes from the environment, as
LABEL_STUDIO_API_KEY or CVAT_ACCESS_TOKEN; holds a part of the photos out; trains on the rest; evaluates with a
simulated annotator on the held-out part before and after. Only where fewer clicks are needed, beyond what chance makes
likely, the new weights become RUN/weights, which servers and commands load by that path; RUN/report.html says how it
went either way. Run the same command again to go on after a stop, or after mending the annotations. The exit status is
3 where the new weights are not promoted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from .command_line import command_parser, exit_status
from .finetuning.projects.choice import project_of
from .finetuning.promotion import default_weights
from .finetuning.readers.annotations import Orientation
from .finetuning.runner import finetune
from .finetuning.settings import FinetuneSettings

NOT_PROMOTED = 3
"""Exit status of a run whose weights are not shown to be better."""


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        0 where the new weights were promoted, 3 where they are not shown to be better, 2 for a mistake, 130 for Ctrl-C.
    """
    parser = command_parser("finetune", __doc__)
    parser.add_argument("--annotations", type=Path, metavar="EXPORT", help="file, zip or folder")
    parser.add_argument("--label-studio", metavar="URL", help="instead of an export: a Label Studio, with --project")
    parser.add_argument("--cvat", metavar="URL", help="instead of an export: a CVAT, with --project, --task or --job")
    for kind in ("project", "task", "job"):
        parser.add_argument(f"--{kind}", type=int, metavar="N", help=f"number of the {kind}, as in its address")
    parser.add_argument(
        "--accepted",
        action="store_true",
        help="only accepted work: of Label Studio ground truth (the star) and reviews that accept, of CVAT jobs in the "
        "stage acceptance and the state completed",
    )
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="read the project again; without it, a run that was begun goes on with what it has read",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="the photos' folder (beside the file or in the zip)")
    parser.add_argument("--file", metavar="NAME", help="which file of a zip or folder, where it holds several exports")
    parser.add_argument(
        "--label-config",
        type=Path,
        metavar="XML",
        help="Label Studio's labelling config, which tells several photos of a page apart",
    )
    parser.add_argument(
        "--predictions",
        action="store_true",
        help="take predictions of Label Studio's tasks that nobody annotated (passed over)",
    )
    parser.add_argument(
        "--orientation",
        choices=get_args(Orientation),
        help="whether outlines of photos with an EXIF orientation are on the photo as shown (upright) or as stored, "
        "where their size does not tell (the tool's rule)",
    )
    parser.add_argument(
        "--weights",
        help="name or path of the weights to begin with (the current version of --promote's store; "
        "ICMFORMER_WEIGHTS; starter)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    parser.add_argument("--name", help="name of the new weights (RUN's folder name)")
    parser.add_argument(
        "--install",
        action="store_true",
        help="also copy promoted weights to the cache folder, where commands find them by name",
    )
    parser.add_argument(
        "--promote",
        metavar="STORE",
        help="add promoted weights to this store of versions, and make them current if what they were compared with "
        "still is; it is made where there is none",
    )
    parser.add_argument(
        "--held-out", type=float, default=0.2, metavar="SHARE", help="share of the photos that decide (0.2)"
    )
    parser.add_argument(
        "--choosing", type=float, default=0.1, metavar="SHARE", help="share of the photos to choose the zoom on (0.1)"
    )
    parser.add_argument(
        "--group-by",
        default="auto",
        metavar="RULE",
        help="photos that stay on one side: auto (tasks, videos, tiles by their names; the default), folder, none, or "
        "a regular expression for their paths whose first group names theirs; look-alikes too but for none",
    )
    parser.add_argument("--samples", type=int, default=3000, help="training samples (3000)")
    parser.add_argument("--batch", type=int, default=8, help="samples a step (8)")
    parser.add_argument("--lr", type=float, help="peak learning rate (3e-4; 5e-5 for plain ViTs and Swins)")
    parser.add_argument("--objects", type=int, default=200, help="held-out objects to evaluate on, spread (200)")
    parser.add_argument("--profile", choices=["exact", "fast"], default="fast", help="profile that evaluates (fast)")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one; the default), cpu, cuda:N")
    parser.add_argument("--jobs", type=int, default=1, help="processes that evaluate (1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples (1)")
    parser.add_argument("--threads", type=int, help="CPU threads of the training (torch's choice)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random in the training (0)")
    args = parser.parse_args(argv)

    def work() -> int:
        options = vars(args)
        names = ("label_studio", "cvat", "project", "task", "job", "accepted")
        of_tool = {name: options.pop(name) for name in names}
        project = project_of(**of_tool, predictions=args.predictions, annotations=args.annotations)
        options["project"] = project
        options["weights"] = args.weights or default_weights(args.promote)
        settings = FinetuneSettings(devices=options.pop("device").split(","), **options)
        return 0 if finetune(settings) else NOT_PROMOTED

    return exit_status(work, f"stopped; run the same command to go on: {args.out}", args.out)


if __name__ == "__main__":
    sys.exit(main())
