"""The state dict in a checkpoint of any training script: unwrapped, and without what wrappers put before the names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from icmformer.errors import WeightsError
from icmformer.weights.unpickle import Placeholder

_AVERAGED = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema", "average")
_CURRENT = (
    *("state_dict", "model_state_dict", "model", "net", "network", "model_state", "net_state_dict"),
    *("network_state_dict", "weights", "params", "module", "shadow"),
)
_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # of torch.compile and FSDP
_BEFORE = ("module.", "model.", "net.", "network.", "ema_model.", "ema.")
_ANCHOR = "head.conv_seg.weight"  # every network of this package has it, and no backbone
_IDLE = frozenset({"num_batches_tracked", "n_averaged", "total_ops", "total_params", "attn_mask"})
_DEEPEST = 4
_NAMED = 3


@dataclass(frozen=True)
class StateDict:
    """What a checkpoint holds of a network.

    Attributes:
        tensors: Name -> tensor, as they are in the file.
        notes: What was decided or left out, for people.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def find_state_dict(content: object, where: str) -> StateDict:
    """Finds the state dict in what a file of torch or safetensors holds.

    Wrappers are opened (`model`, `net`, `state_dict`, ...), and what torch.compile, DistributedDataParallel, FSDP,
    AveragedModel or an owning module put before the names is taken off. **Where there are averaged weights beside
    others (`ema`, `model_ema`, `state_dict_ema`, ...), the averaged ones are taken**, and what they lack of the others;
    where they cannot be read, the others, with a note.
    Buffers that no network computes with are left out (`num_batches_tracked`, `n_averaged`, ...).

    Args:
        content: What the file holds.
        where: Named in errors.

    Raises:
        WeightsError: There is none; the text says what there is instead.
    """
    found = _found(content, where, _DEEPEST)
    if isinstance(found, str):
        raise WeightsError(f"{where} holds no state dict (name -> tensor): {found}")
    return found


def listed(names: Iterable[str]) -> str:
    """A few names, for people."""
    names = sorted(names)
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _found(content: object, where: str, deep: int) -> StateDict | str:
    """The state dict, or why there is none."""
    if isinstance(content, Placeholder):
        return _of_object(content)
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    if not deep:
        return "it is wrapped too often"
    no_averaged: list[str] = []
    reasons: list[str] = []
    averaged = _first(content, _AVERAGED, where, deep, no_averaged)
    current = _first(content, _CURRENT, where, deep, reasons)
    if averaged and current:
        return _averaged_first(averaged, current)
    if averaged:
        return averaged[1]
    if current:
        key, found = current
        notes = [f"weights of `{key}` taken, no averaged ones: {reason}" for reason in no_averaged[:1]]
        return StateDict(found.tensors, (*notes, *found.notes))
    reasons = no_averaged + reasons
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors and not reasons:
        return _stripped(tensors, where)
    return reasons[0] if reasons else _instead(content)


def _first(
    content: Mapping[object, object], keys: Iterable[str], where: str, deep: int, reasons: list[str]
) -> tuple[str, StateDict] | None:
    for key in keys:
        inner = content.get(key)
        if isinstance(inner, Mapping | Placeholder):
            found = _found(inner, where, deep - 1)
            if isinstance(found, StateDict):
                return key, found
            reasons.append(f"in its `{key}`, {found}")
    return None


def _averaged_first(averaged: tuple[str, StateDict], current: tuple[str, StateDict]) -> StateDict:
    (ema, theirs), (other, rest) = averaged, current
    if not theirs.tensors.keys() & rest.tensors.keys():
        note = f"weights of `{other}` taken: those of `{ema}` have other names"
        return StateDict(rest.tensors, (note, *rest.notes))
    filled = rest.tensors.keys() - theirs.tensors.keys()
    note = f"averaged weights taken (`{ema}`), not those of `{other}`"
    note += f", but for {len(filled)} that it lacks ({listed(filled)})" if filled else ""
    return StateDict({**rest.tensors, **theirs.tensors}, (note, *theirs.notes))


def _stripped(tensors: Mapping[str, Tensor], where: str) -> StateDict:
    """Without what wrappers put before and into the names, and without idle buffers."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = name
        for part in _INSIDE:
            plain = plain.replace(part, "")
        if plain in named:
            raise WeightsError(f"{where} holds {plain} twice, once as {name}")
        named[plain] = tensor
    idle = [name for name in named if name.rpartition(".")[2] in _IDLE]
    for name in idle:
        del named[name]
    notes = [f"left out as it changes nothing: {listed(idle)}"] if idle else []
    prefix, others = _network_prefix(named), 0
    if prefix:
        others = sum(not name.startswith(prefix) for name in named)
        named = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
    else:
        while named and (shared := next((p for p in _BEFORE if all(n.startswith(p) for n in named)), "")):
            named = {name.removeprefix(shared): value for name, value in named.items()}
    if others:
        notes.append(f"the network under `{prefix[:-1]}` taken, {others} other tensors left out")
    return StateDict(named, tuple(notes))


def _network_prefix(names: Iterable[str]) -> str:
    """What comes before the names of a whole network, that of averaged weights where there are several; else empty."""
    found = [name.removesuffix(_ANCHOR) for name in names if name.endswith(_ANCHOR)]
    found = sorted((p for p in found if not p or p.endswith(".")), key=len)
    averaged = [prefix for prefix in found if {"ema", "swa", "averaged"} & set(re.split(r"[._]", prefix))]
    return (averaged or found or [""])[0]


def _of_object(content: Placeholder) -> str:
    state = content.state
    if isinstance(state, Mapping) and {"_modules", "_parameters"} & state.keys():
        return (
            "it is a whole pickled module (torch.save(model)), which cannot be read without running its code; where it "
            "can be loaded, save its state dict: torch.save(model.state_dict(), FILE)"
        )
    return f"it is an object of the class {type(content).__name__}"


def _instead(content: Mapping[object, object]) -> str:
    """What a mapping without a state dict is."""
    if not content:
        return "it is empty"
    if {"state", "param_groups"} <= content.keys():
        return "it is the state of an optimiser alone; the network is in another file"
    if {"state", "config", "best"} <= content.keys():
        return (
            "it is a checkpoint of training.train; export it first: "
            "python -m icmformer.applications.training.export FILE -o FOLDER"
        )
    keys = f"it has {listed(map(str, content))}"
    if "optimizer" in content or "optimizer_state_dict" in content:
        return f"{keys}: the state of an optimiser without a network"
    if "pytorch-lightning_version" in content:
        return f"{keys}: a checkpoint of Lightning whose `state_dict` is missing or empty"
    return keys
