"""The community's form of the set, `hannotation.pickle` and `masks/<id>.pickle`, read without running anything in it.

A pickle is a program; this reader admits NumPy's arrays of plain numbers and plain containers, and refuses the rest.
"""

from __future__ import annotations

import codecs
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError

from ..packed_mask import PackedMask
from .rules import Object

_RECONSTRUCT, _SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]  # what NumPy's pickles call


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What old pickles of bytes call; other encodings have no business there."""
    if encoding not in ("latin1", "latin-1", "utf-8"):
        raise pickle.UnpicklingError(f"it encodes as {encoding!r}")
    return codecs.encode(text, encoding)


_ADMITTED: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which annotations have no need of")


def read_pickle(data: bytes, where: Path) -> Any:
    """Unpickles plain data.

    Raises:
        ConfigError: A pickle that is damaged, or would do more than hold data.
    """
    try:
        return _Reader(io.BytesIO(data)).load()
    except Exception as error:  # a hostile pickle makes the reader raise anything
        raise ConfigError(f"{where} is not read: {error}") from error


class Community:
    """The set in the community's form.

    Args:
        root: The folder of a split: `hannotation.pickle`, `masks/`, `images/`.

    Attributes:
        samples: What `hannotation.pickle` says of each image, by key.

    Raises:
        ConfigError: Not that form.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        path = root / "hannotation.pickle"
        if not path.is_file():
            raise ConfigError(f"there is no {path}")
        samples = read_pickle(path.read_bytes(), path)
        if not isinstance(samples, dict):
            raise ConfigError(f"{path} holds a {type(samples).__name__}, not a mapping of images")
        self.samples: dict[str, Mapping[str, Any]] = {str(key): samples[key] for key in sorted(samples, key=str)}

    def objects(self, key: str) -> tuple[list[Object], tuple[int, int]]:
        """The objects of an image, and its (height, width).

        Raises:
            ConfigError: A mask file that is not there, damaged or unsafe.
        """
        path = self._root / "masks" / f"{key}.pickle"
        try:
            coded, mapping = read_pickle(path.read_bytes(), path)
            layers = [_decode(layer) for layer in coded]
            count, hierarchy = int(self.samples[key]["num_instance_masks"]), self.samples[key]["hierarchy"]
            places = mapping if isinstance(mapping, dict) else dict(enumerate(mapping))
            objects = []
            for number in sorted(places):
                layer, value = places[number]
                info = hierarchy.get(number) if number < count else None
                parent = info["parent"] if info else None
                place = None if parent is None else int(parent)
                objects.append(Object(PackedMask.of(layers[layer] == value), "community", place, number >= count))
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{path} or its entry is not of the community's form: {error!r}") from error
        if not layers:
            raise ConfigError(f"{path} holds no layer")
        return objects, layers[0].shape[:2]


def _decode(png: Any) -> NDArray[Any]:
    layer = cv2.imdecode(np.asarray(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if layer is None:
        raise ValueError("a layer is damaged")
    return layer
