"""Reading torch's pickled files without executing anything in them.

A pickle is a program. This reader admits tensors and plain containers, lets the authors' own objects come out as inert
placeholders, and refuses every file that names a function it would have to call.
"""

from __future__ import annotations

import collections
import pickle
import sys
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from icmformer.errors import WeightsError

_TENSOR_PARTS = frozenset(
    {
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch", "Size"),
        ("torch", "device"),
    }
)
_STORAGES = frozenset(
    f"{kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
)
_DTYPES = frozenset({"float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"})
_CONTAINERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "slice"): slice,
    ("builtins", "complex"): complex,
}
_INERT_CALLS = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
    }
)
"""Calls that training scripts leave in their files beside the tensors; they come out as placeholders too."""
_INERT_CLASSES = frozenset({("argparse", "Namespace")})
_UNTRUSTED_CALL = "it would call {name}, and weights need no calls"


class _PlaceholderType(type):
    """Type of placeholders: they can be created as objects, never called as functions."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise pickle.UnpicklingError(_UNTRUSTED_CALL.format(name=cls.__name__))


class Placeholder(metaclass=_PlaceholderType):
    """Stands for an object of a class that is not known here: it keeps what it is given and does nothing.

    Attributes:
        state: The object's pickled state (usually its attributes), or None.
        items: What was added to it as to a list or mapping.
    """

    state: Any
    items: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        self = object.__new__(cls)
        self.state = None
        self.items = []
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        self.items.append(value)

    def extend(self, values: Any) -> None:
        self.items.extend(values)


def _nothing(*_args: Any) -> Placeholder:
    return Placeholder.__new__(Placeholder)


class SafeUnpickler(pickle.Unpickler):
    """Resolves names to tensor parts and containers, other packages' names to placeholders, and refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        if (module, name) in _TENSOR_PARTS or (module == "torch" and name in _STORAGES | _DTYPES):
            return super().find_class(module, name)
        if (module, name) in _INERT_CALLS:
            return _nothing
        if module.split(".")[0] in sys.stdlib_module_names and (module, name) not in _INERT_CLASSES:
            raise pickle.UnpicklingError(_UNTRUSTED_CALL.format(name=f"{module}.{name}"))
        return _PlaceholderType(f"{module}.{name}", (Placeholder,), {})


def load_torch_file(path: Path) -> Any:
    """Reads a file written by `torch.save`.

    Returns:
        Its content, tensors on the CPU, unknown objects as `Placeholder`.

    Raises:
        WeightsError: Not such a file, damaged, or one that asks for code to run.
    """
    _check_archive(path)
    reader = SimpleNamespace(Unpickler=SafeUnpickler, load=_load, __name__="icmformer.safe_pickle")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: {error}. Nothing in it was run. Get the file from its authors, or as safetensors"
        ) from error
    except MemoryError as error:
        raise WeightsError(f"{path} does not fit into memory") from error
    except Exception as error:  # damaged archives make torch raise nearly anything
        raise WeightsError(
            f"{path} is damaged or not a torch file ({type(error).__name__}: {error}); download it again"
        ) from error


def _load(file: Any, **kwargs: Any) -> Any:
    return SafeUnpickler(file, **kwargs).load()


def _check_archive(path: Path) -> None:
    """Refuses what torch.load must not see: other archives, and members that unpack to more than they are."""
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    if not magic.startswith(b"PK"):
        if magic[:1] == b"\x80":
            return  # torch's format before 1.6: a sequence of pickles
        raise WeightsError(f"{path} is not a torch file; expected .safetensors, or .pth as written by torch.save")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}); download it again") from error
    names = [m.filename.rsplit("/", 1)[-1] for m in members]
    if "constants.pkl" in names or "data.pkl" not in names:
        raise WeightsError(
            f"{path} holds a TorchScript program or something else, not a state dict; ask for the state dict"
        )
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise WeightsError(f"{path} is a compressed archive, which torch.save never writes; it is refused")
