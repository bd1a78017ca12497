"""Reading torch's pickled files without executing anything in them.

A pickle is a program. This reader admits tensors and plain containers, lets the authors' own objects come out as inert
placeholders, and refuses every file that names a function it would have to call.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from icmformer.errors import WeightsError

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_CONTAINERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "slice"): slice,
    ("builtins", "complex"): complex,
}
_PATHS = ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
_INERT_CALLS = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
        ("torch", "device"),
        ("collections", "Counter"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        *(("builtins", name) for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
        *((module, name) for module in ("pathlib", "pathlib._local") for name in _PATHS),
        *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
    }
)
"""Calls that training scripts leave in their files beside the tensors; they come out as placeholders too."""
_INERT_CLASSES = frozenset({("argparse", "Namespace")})
_UNTRUSTED_CALL = "it would call {name}, and weights need no calls"
_UNTRUSTED_STATE = "it would set the state of a {name}, and weights need none"


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

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        self.items.append(value)

    def extend(self, values: Any) -> None:
        self.items.extend(values)


def _nothing(*_args: Any) -> Placeholder:
    return Placeholder.__new__(Placeholder)


@dataclass(frozen=True)
class _Storage:
    """A flat run of numbers in the archive, not read yet."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class _Lazy:
    """Where the numbers of a tensor are.

    Attributes:
        tensor: The tensor on the meta device; held here so that its identity stays its own.
        storage: Where its numbers are, and from which on.
    """

    tensor: Tensor
    storage: _Storage
    offset: int


def _rebuild_parameter(data: Tensor, *_unused: Any) -> Tensor:
    return data


_REBUILDERS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
}


def _check_owner(owner: Any) -> None:
    if not isinstance(owner, (dict, list, set, Placeholder)):
        raise pickle.UnpicklingError(_UNTRUSTED_STATE.format(name=type(owner).__name__))


def _filling(step: Callable[..., None], owner: Callable[[Any], Any]) -> Callable[..., None]:
    """An instruction that puts things into a container, which it is seen to be first."""

    def checked(unpickler: SafeUnpickler) -> None:
        _check_owner(owner(unpickler))
        step(unpickler)

    return checked


class SafeUnpickler(pickle._Unpickler):  # the one written in Python: what its instructions do can be looked at before
    """Resolves names to tensor parts and containers, other packages' names to placeholders, and refuses the rest.

    Containers and placeholders alone are filled, and placeholders alone get a state (pickle's BUILD): a tensor, a
    function or a class would run code of its own with it, or be another one afterwards. Torch's state dicts bring a
    state for their OrderedDict, which is passed over.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    metastack: list[list[Any]]
    saw_module = False
    """Whether a class of torch's layers was named: it is a whole module rather than its tensors."""

    def load_build(self) -> None:
        """Takes the state off the stack, and gives it to what lies below where that is a placeholder."""
        state, owner = self.stack.pop(), self.stack[-1]
        if isinstance(owner, Placeholder):
            owner.state = state
        elif not isinstance(owner, collections.OrderedDict):
            raise pickle.UnpicklingError(_UNTRUSTED_STATE.format(name=type(owner).__name__))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.APPEND[0]] = _filling(dispatch[pickle.APPEND[0]], lambda self: self.stack[-2])
    dispatch[pickle.SETITEM[0]] = _filling(dispatch[pickle.SETITEM[0]], lambda self: self.stack[-3])
    for _code in (pickle.APPENDS, pickle.SETITEMS, pickle.ADDITEMS):
        dispatch[_code[0]] = _filling(dispatch[_code[0]], lambda self: self.metastack[-1][-1])

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        if (module, name) in _REBUILDERS:
            return _REBUILDERS[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in _INERT_CALLS:
            return _nothing
        if module.startswith("torch.nn.modules."):
            self.saw_module = True
        if module.split(".")[0] in sys.stdlib_module_names and (module, name) not in _INERT_CLASSES:
            raise pickle.UnpicklingError(_UNTRUSTED_CALL.format(name=f"{module}.{name}"))
        return _PlaceholderType(f"{module}.{name}", (Placeholder,), {})


class TorchFile:
    """A file written by `torch.save` (torch 1.6 or newer: a zip archive of one pickle and its storages).

    The archive is read by this module alone: `torch.load` takes other kinds of files too, some of which run code.

    Args:
        path: The file.

    Attributes:
        content: What it holds: tensors on the meta device, whose numbers `read` gives, so that a checkpoint takes no
            memory for the optimiser's; unknown objects as `Placeholder`.

    Raises:
        WeightsError: Not such a file, damaged, or one that asks for code to run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: tuple[str, Tensor] | None = None  # tensors of one storage mostly come one after the other
        with _telling(path), zipfile.ZipFile(path) as archive:
            unpickler = _ArchiveUnpickler(archive, _pickle_name(archive, path))
            try:
                self.content: Any = unpickler.load()
            except pickle.UnpicklingError as error:
                if unpickler.saw_module:
                    raise pickle.UnpicklingError(f"{error} ({_WHOLE_MODULE})") from error
                raise
            self._folder, self._lazy = unpickler.folder, unpickler.lazy

    def read(self, tensor: Tensor) -> Tensor:
        """The numbers of a tensor of `content`, on the CPU.

        Raises:
            WeightsError: They are damaged, or do not fit into memory.
        """
        lazy = self._lazy[id(tensor)]
        with _telling(self._path):
            if self._last is None or self._last[0] != lazy.storage.key:
                self._last = None  # before the next one takes its room
                with zipfile.ZipFile(self._path) as archive:
                    data = bytearray(archive.read(f"{self._folder}data/{lazy.storage.key}"))
                dtype = lazy.storage.dtype
                self._last = lazy.storage.key, torch.frombuffer(data, dtype=dtype) if data else torch.empty(0).to(dtype)
            return self._last[1].as_strided(tensor.shape, tensor.stride(), lazy.offset)


_WHOLE_MODULE = (
    "it seems to be a whole module, as torch.save(model) writes it; where it can be loaded, save its state dict: "
    "torch.save(model.state_dict(), FILE)"
)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Within the block, what damaged files raise becomes a `WeightsError`."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: {error}. Nothing in it was run. Get the file from its authors, or as safetensors"
        ) from error
    except zipfile.BadZipFile as error:
        told = not_weights(path) or "it is cut short or damaged; get it again"
        raise WeightsError(
            f"{path} is not a torch file that can be read: {told}. Expected is .safetensors, or .pth as torch.save has "
            "written it since torch 1.6 (load and save an older one with a newer torch)"
        ) from error
    except FileNotFoundError as error:
        raise WeightsError(f"there is no file {path}") from error
    except MemoryError as error:
        raise WeightsError(f"{path} does not fit into memory") from error
    except WeightsError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        raise WeightsError(f"{path} is damaged ({type(error).__name__}: {error}); download it again") from error


def not_weights(path: Path) -> str:
    """What a file that is no weights file begins like, and what to do; empty where nothing can be told of it."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return ""
    text = start.lstrip().lower()
    if not start:
        return "it is empty; get it again"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return "it is a web page, not weights; get the file itself (behind a log-in or a quota, pages come instead)"
    if start.startswith(b"PK\x03\x04"):
        return "it is cut short (the end of its archive is missing); get it again"
    if start[8:10] in (b'{"', b"{ ") and path.suffix != ".safetensors":
        return "it looks like a safetensors file; name it .safetensors"
    if start.startswith(b"\x89HDF"):
        return "it is an HDF5 file, as Keras writes it"
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed (gzip); unpack it"
    if text.startswith((b"{", b"[")) and start[8:9] != b"{":
        return "it is JSON text, perhaps a server's message; get it again"
    return ""


def _pickle_name(archive: zipfile.ZipFile, path: Path) -> str:
    members = archive.infolist()
    names = [m.filename for m in members]
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1 or any(name.endswith("constants.pkl") for name in names):
        raise WeightsError(f"{path} holds a TorchScript program or something else; ask for the state dict")
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise WeightsError(f"{path} is a compressed archive, which torch.save never writes; it is refused")
    return pickles[0]


class _ArchiveUnpickler(SafeUnpickler):
    """Resolves storages to the archive's members, of which it reads but the pickle."""

    def __init__(self, archive: zipfile.ZipFile, pickle_name: str) -> None:
        super().__init__(io.BytesIO(archive.read(pickle_name)))
        self.folder = pickle_name.removesuffix("data.pkl")
        self.lazy: dict[int, _Lazy] = {}
        self._sizes = {member.filename: member.file_size for member in archive.infolist()}
        self._storages: dict[str, _Storage] = {}
        order = self.folder + "byteorder"
        if order in self._sizes and archive.read(order) != b"little":
            raise pickle.UnpicklingError("its numbers are stored big-endian")

    def persistent_load(self, pid: Any) -> _Storage:
        """One storage, as a flat run of numbers."""
        kind, dtype, key, _location, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to {kind!r}, which is no tensor storage")
        held = self._sizes[f"{self.folder}data/{key}"] // dtype.itemsize
        storage = self._storages.setdefault(key, _Storage(key, dtype, held))
        if storage.dtype != dtype or held < count:
            raise pickle.UnpicklingError(f"storage {key} is not as long as the file says")
        return storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild_tensor
        return super().find_class(module, name)

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_unused: Any) -> Tensor:
        """A view of a storage that lies wholly within it and is not larger than it."""
        known = isinstance(storage, _Storage) and len(size) == len(stride)
        if not known or min((offset, *size, *stride), default=0) < 0:
            raise pickle.UnpicklingError("it describes a tensor that cannot be")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and (last >= storage.count or math.prod(size) > storage.count):
            raise pickle.UnpicklingError("it describes a tensor larger than its storage")
        tensor = torch.empty_strided(size, stride, dtype=storage.dtype, device="meta")
        self.lazy[id(tensor)] = _Lazy(tensor, storage, offset)
        return tensor
