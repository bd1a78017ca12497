"""A mask in COCO's forms."""

import numpy as np
from pycocotools import mask as rle

HEIGHT, WIDTH = 40, 60


SQUARE = [[10, 5, 20, 5, 20, 15, 10, 15]]  # rows 5 to 14, columns 10 to 19


def square():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:15, 10:20] = True
    return mask


def plain(mask):
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(np.diff(flat.astype(np.int8)))
    return np.diff([0, *edges, mask.size]).tolist()


def packed(mask):
    coded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


def shortened(step):
    counts = plain(square())
    return {"size": [HEIGHT, WIDTH], "counts": [*counts[:-1], counts[-1] + step]}
