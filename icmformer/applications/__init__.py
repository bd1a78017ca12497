"""The applications on top of the package: `training`, `ls_backend` (Label Studio) and `serverless` (CVAT).

In the repository they are folders beside `icmformer`, in an installed package folders beside this file. Their names are
`icmformer.applications.training` and so on in both, so that they meet nobody else's `training`. None imports another,
and they import their own modules relatively. At the top of the repository `python -m training.train` works too.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

if not (_HERE / "training").is_dir():  # a clone
    __path__.append(str(_HERE.parents[1]))
