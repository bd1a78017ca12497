"""Weights in the native form, read, checked and written; published checkpoints read."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from icmformer.disk import writing
from icmformer.errors import ConfigError, DiskFullError, WeightsError
from icmformer.layers.attention import relative_position_index
from icmformer.models import ClickNetwork, build_network, meta_network, network_config
from icmformer.models.config import NetworkConfig, config_mapping
from icmformer.settings import Settings
from icmformer.weights.activation_ranges import ActivationRanges
from icmformer.weights.pointer import is_store, version_of
from icmformer.weights.published import published_config
from icmformer.weights.quantise import Stored, pack, unpack
from icmformer.weights.search_path import CONFIG_FILE, MODEL_FILE, RANDOM_PREFIX, SUMS_FILE, locate
from icmformer.weights.serving_defaults import AS_PUBLISHED, ServingDefaults
from icmformer.weights.state_dicts import find_state_dict, listed
from icmformer.weights.unpickle import TorchFile, not_weights

FORMAT = 3
_SECOND_HEAD = "edge_head."  # for objects' edges, of networks derived from SimpleClick (U-CFR); masks do without
_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"
_READS = (1, 2, 3)  # the first had no int8; the first two called the refinement pass `second_look`


class WeightsWarning(UserWarning):
    """What was decided, or left out, when weights of another script were read."""


@dataclass(frozen=True)
class Weights:
    """A network's configuration and values.

    Attributes:
        config: The network's mapping, as `icmformer.models.build_network` takes it.
        state_dict: Parameter name -> tensor on the CPU, floats as float32.
        name: For people; of a version in a store the version's.
        sha256: Of the file the values came from; of the values themselves for random ones.
        path: Where they came from, or None.
        about: Free facts that travel with the weights (how they were trained, say).
        serving: How clicks become masks with it, and how its scores are read.
        int8: What computing in int8 needs; None where it was not measured.
    """

    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    name: str
    sha256: str
    path: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    serving: ServingDefaults = AS_PUBLISHED
    int8: ActivationRanges | None = None

    @property
    def identity(self) -> str:
        """Names network, values and how they are served: equal only where all are."""
        published = AS_PUBLISHED.as_mapping()
        own = {k: v for k, v in self.serving.as_mapping().items() if v != published[k]}  # a new field changes no name
        facts = json.dumps([self.sha256, self.config, own], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()

    def build(self, copy: bool = True) -> ClickNetwork:
        """The network with these values, in evaluation mode, on the CPU.

        Args:
            copy: Give it values of its own. Without, it shares memory with `state_dict`: for serving only.

        Returns:
            A module that takes (B, 3, H, W) images, previous masks and clicks; see its `forward`.
        """
        network = meta_network(self.config)
        values = {k: v.clone() for k, v in self.state_dict.items()} if copy else self.state_dict
        network.load_state_dict(values, strict=True, assign=True)
        network.reset_constants()
        return network.eval()


def load(path: str | Path, settings: Settings | None = None) -> Weights:
    """Loads weights.

    Args:
        path: A native folder, a `.safetensors` file, a published `.pth` file, a store of versions (of which the current
            one is loaded), a name to be searched for (see `locate`), or `random:VARIANT` for a registered network with
            seeded random values.
        settings: Those of the environment, unless given.

    Returns:
        Checked weights: every parameter of the configured network is there, of the right shape and finite.

    Raises:
        WeightsError: Not found, damaged, unsafe, or not fitting; the text says what to do.
    """
    if isinstance(path, str) and path.startswith(RANDOM_PREFIX):
        return _random(path.removeprefix(RANDOM_PREFIX))
    while True:
        found = locate(path, settings)
        try:
            return _load(found)
        except WeightsError:
            if locate(path, settings) == found:
                raise  # else another version became current, and this one was deleted


def _load(found: Path) -> Weights:
    try:
        weights = _load_folder(found) if found.is_dir() else _load_single(found)
        _check(weights)
    except WeightsError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(f"{found} is damaged ({type(error).__name__}: {error}); get it again") from error
    return weights


def save(
    folder: Path,
    config: str | Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    name: str,
    about: Mapping[str, Any] | None = None,
    stored: Stored = "fp32",
    serving: ServingDefaults = AS_PUBLISHED,
    int8: ActivationRanges | None = None,
) -> Path:
    """Writes weights in the native form.

    Args:
        folder: Made if need be; files of the native form in it are replaced.
        config: A registered name or a network mapping.
        state_dict: All parameters.
        name: For people.
        about: Free facts.
        stored: How: fp32, fp16 or int8.
        serving: How clicks are to become masks with it, and its scores to be read.
        int8: What computing in int8 needs, measured with these values.

    Returns:
        The folder.

    Raises:
        WeightsError: Parameters that do not fit the config, or a folder that cannot be written, such as a store of
            versions or one of them.
        DiskFullError: There is no room; what was in the folder before is untouched.
    """
    if is_store(folder) or version_of(folder):
        raise WeightsError(f"{folder} belongs to a store of versions; to add to one: icmformer weights promote")
    mapping = config_mapping(network_config(config))
    packed = pack(state_dict, stored)
    _check(Weights(mapping, unpack(packed), name, ""), stored)
    description: dict[str, Any] = {"format": FORMAT, "name": name, "network": mapping}
    description |= {**serving.as_mapping(), "about": dict(about or {})}
    if int8:
        description["int8"] = int8.as_mapping()
    try:
        _write(folder, json.dumps(description, indent=2) + "\n", packed)
    except DiskFullError:
        raise
    except OSError as error:
        raise WeightsError(f"cannot write weights to {folder}: {error.strerror}") from error
    return folder


def _write(folder: Path, description: str, packed: Mapping[str, Tensor]) -> None:
    """Writes the three files beside those that are there, and then puts them in their place: all, or none."""
    made = not folder.exists()
    parts = {name: folder / f"{name}.part" for name in (CONFIG_FILE, MODEL_FILE, SUMS_FILE)}
    try:
        with writing(folder, temporary=tuple(parts.values())):
            folder.mkdir(parents=True, exist_ok=True)
            parts[CONFIG_FILE].write_text(description)
            save_file(dict(packed), parts[MODEL_FILE])
            shutil.copymode(parts[CONFIG_FILE], parts[MODEL_FILE])  # safetensors lets nobody else read its files
            sums = "".join(f"{file_sha256(parts[name])}  {name}\n" for name in (CONFIG_FILE, MODEL_FILE))
            parts[SUMS_FILE].write_text(sums)
            for name, part in parts.items():
                part.replace(folder / name)
    except BaseException:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _load_folder(folder: Path) -> Weights:
    _verify_sums(folder)
    try:
        description = json.loads((folder / CONFIG_FILE).read_text())
        mapping = description["network"]
        name = version_of(folder) or str(description["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{folder / CONFIG_FILE} is missing or damaged ({error}); get the whole folder again"
        ) from error
    if description.get("format") not in _READS:
        raise WeightsError(
            f"{folder} has format {description.get('format')!r}, this version reads up to {FORMAT}; update icmformer"
        )
    model = folder / MODEL_FILE
    try:
        serving, int8 = ServingDefaults.of(description), ActivationRanges.of(description.get("int8"))
    except ConfigError as error:
        raise WeightsError(f"{folder / CONFIG_FILE}: {error}") from error
    return Weights(
        _known_config(mapping, folder),
        _read_safetensors(model),
        name,
        file_sha256(model),
        folder,
        description.get("about", {}),
        serving,
        int8,
    )


def _load_single(file: Path) -> Weights:
    if file.suffix == ".npz":
        raise WeightsError(f"{file} is a backbone alone; start a training with it (--start of training.train)")
    if file.suffix == ".safetensors":
        if (file.parent / CONFIG_FILE).is_file() and file.name == MODEL_FILE:
            return _load_folder(file.parent)
        with open_safetensors(file) as tensors:
            found, hints = find_state_dict(tensors, str(file)), dict[str, Any]()
            state = unpack(found.tensors)
    else:
        torch_file = TorchFile(file)
        found, hints = find_state_dict(torch_file.content, str(file)), _hints(torch_file.content)
        state = unpack(_Tensors(found.tensors, lambda name: torch_file.read(found.tensors[name])))
    state = {k: v for k, v in state.items() if not k.startswith(_SECOND_HEAD)}
    config = published_config(state, hints, str(file))
    _restore_indices(state)
    notes = (*found.notes, *_without_constants(state, config))
    for note in notes:
        warnings.warn(f"{file}: {note}", WeightsWarning, stacklevel=5)
    about = {"read": list(notes)} if notes else {}
    return Weights(config_mapping(config), state, file.stem, file_sha256(file), file, about)


def _hints(content: Any) -> dict[str, Any]:
    """What a checkpoint says of its network: the config that published files have, or a mapping of ours."""
    entries = [content.get(key) for key in ("config", "network_config", "network")] if isinstance(content, dict) else []
    return next((entry for entry in entries if isinstance(entry, dict) and not _tensors(entry)), {})


def _tensors(entry: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in entry.values())


def _restore_indices(state: dict[str, Tensor]) -> None:
    """Swin's indices follow from the size of the tables that they point into; files of parameters alone lack them."""
    for name in [name for name in state if name.endswith(_TABLE)]:
        side = (math.isqrt(len(state[name])) + 1) // 2
        state.setdefault(name.removesuffix(_TABLE) + _INDEX, relative_position_index(side))


def _without_constants(state: dict[str, Tensor], config: NetworkConfig) -> list[str]:
    """Takes out the normalisation of pixels where a file has it and it is the network's own; notes of it."""
    network = meta_network(config)
    notes = []
    for name, own in (("mean", network.PIXEL_MEAN), ("std", network.PIXEL_STD)):
        value = state.get(name)
        if value is not None and value.numel() == 3 and torch.allclose(value.flatten(), torch.tensor(own), atol=1e-4):
            del state[name]
            notes.append(f"left out as it changes nothing: {name}")
    return notes


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    with open_safetensors(file) as tensors:
        return unpack(tensors)


@contextmanager
def open_safetensors(file: Path) -> Iterator[Mapping[str, Tensor]]:
    """The tensors of a safetensors file, each read when it is asked for; copy what is to outlive the file.

    Raises:
        WeightsError: Not such a file, cut short or damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            yield _Tensors(opened.keys(), opened.get_tensor)
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        told = not_weights(file) or f"it is missing, cut short or damaged ({error}); get it again"
        raise WeightsError(f"{file} cannot be read as safetensors: {told}") from error


class _Tensors(Mapping[str, Tensor]):
    """Tensors by name, each read when it is asked for."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _random(variant: str) -> Weights:
    try:
        config = network_config(variant)
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_network(config).state_dict()
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy().tobytes())
    return Weights(config_mapping(config), dict(state), RANDOM_PREFIX + variant, digest.hexdigest())


def _known_config(mapping: Any, where: Path) -> dict[str, Any]:
    try:
        return config_mapping(network_config(mapping))
    except ConfigError as error:
        raise WeightsError(f"{where}: {error}") from error


def _check(weights: Weights, stored: Stored | None = None) -> None:
    expected = meta_network(weights.config).state_dict()
    where = weights.path or weights.name
    given = weights.state_dict
    wrong = _differences(given, expected)
    if wrong:
        raise WeightsError(f"{where} does not fit its network: {wrong}; it belongs to another variant, or is damaged")
    for name, tensor in given.items():
        if tensor.is_floating_point() != expected[name].is_floating_point() or tensor.is_complex():
            raise WeightsError(f"{where}: {name} has type {tensor.dtype}, the network needs {expected[name].dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            as_stored = f" as {stored}" if stored else ""
            raise WeightsError(f"{where}: {name} holds values that are not finite{as_stored}; it is damaged")
        if name.endswith("relative_position_index") and not torch.equal(
            tensor, relative_position_index(math.isqrt(len(tensor)))
        ):
            raise WeightsError(f"{where}: {name} is not the index that the network uses; the file is damaged")


def _differences(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What a state dict lacks, has too many of, and has of another shape, each with some names; empty for nothing."""
    missing, unknown = expected.keys() - given.keys(), given.keys() - expected.keys()
    shaped = [
        f"{name} has shape {tuple(given[name].shape)}, the network needs {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    told = [f"{len(missing)} parameters missing ({listed(missing)})"] if missing else []
    told += [f"{len(unknown)} unknown ({listed(unknown)})"] if unknown else []
    told += [f"{len(shaped)} of another shape ({'; '.join(shaped[:3])})"] if shaped else []
    return ", ".join(told)


def _verify_sums(folder: Path) -> None:
    try:
        lines = (folder / SUMS_FILE).read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        hint = ""
        if (folder / "weights" / SUMS_FILE).is_file():
            hint = f"; {folder / 'weights'} is one"
        elif (folder / "checkpoint.pt").is_file():
            hint = f"; of a training run make one: python -m icmformer.applications.training.export {folder} -o FOLDER"
        raise WeightsError(f"{folder} is not a weights folder: {SUMS_FILE} cannot be read ({error}){hint}") from error
    sums = {name.strip(): digest for digest, _, name in (line.partition(" ") for line in lines if line)}
    for file in (CONFIG_FILE, MODEL_FILE):
        try:
            actual = file_sha256(folder / file)
        except OSError as error:
            raise WeightsError(
                f"{folder / file} cannot be read ({error.strerror}); get the whole folder again"
            ) from error
        if sums.get(file) != actual:
            raise WeightsError(f"{folder / file} does not have the sha256 of {SUMS_FILE}; it is damaged or was changed")


def file_sha256(file: Path) -> str:
    """A file's sum, as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
