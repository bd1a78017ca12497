"""Weights whose pickle does more than put tensors together: instruction by instruction, by hand."""

import pickle
import zipfile

import numpy as np
import pytest
import torch

from icmformer.errors import WeightsError
from icmformer.weights import unpickle as safe_pickle
from tests.weights.torch_files import read_all

STORAGE = (  # of four numbers
    pickle.MARK + pickle.SHORT_BINUNICODE + b"\x07storage" + pickle.GLOBAL + b"torch\nFloatStorage\n"
    + pickle.SHORT_BINUNICODE + b"\x010" + pickle.SHORT_BINUNICODE + b"\x03cpu" + pickle.BININT1 + b"\x04"
    + pickle.TUPLE + pickle.BINPERSID
)  # fmt: skip
TENSOR = (
    pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + pickle.MARK + STORAGE + pickle.BININT1 + b"\x00"
    + pickle.BININT1 + b"\x04" + pickle.TUPLE1 + pickle.BININT1 + b"\x01" + pickle.TUPLE1 + pickle.TUPLE
    + pickle.REDUCE
)  # fmt: skip
FUNCTION = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
DEFAULTS = (
    pickle.NONE + pickle.EMPTY_DICT + pickle.SHORT_BINUNICODE + b"\x0c__defaults__" + pickle.EMPTY_TUPLE
    + pickle.SETITEM + pickle.TUPLE2
)  # fmt: skip


def archive(tmp_path, program):
    path = tmp_path / "made.pth"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("made/data.pkl", pickle.PROTO + b"\x04" + program + pickle.STOP)
        made.writestr("made/data/0", np.arange(4, dtype=np.float32).tobytes())
    return path


def test_a_tensor_put_together_by_hand_comes_back(tmp_path):
    assert read_all(archive(tmp_path, TENSOR)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "program",
    [
        TENSOR + pickle.MARK + STORAGE + pickle.TUPLE + pickle.BUILD,
        TENSOR + pickle.EMPTY_DICT + pickle.BUILD,
        TENSOR + DEFAULTS + pickle.BUILD,
        FUNCTION + DEFAULTS + pickle.BUILD,
        pickle.GLOBAL + b"collections\nOrderedDict\n" + DEFAULTS + pickle.BUILD,
        pickle.GLOBAL + b"torch\nFloatStorage\n" + pickle.EMPTY_DICT + pickle.BUILD,
        pickle.EMPTY_LIST + DEFAULTS + pickle.BUILD,
        TENSOR + pickle.BININT1 + b"\x00" + pickle.BININT1 + b"\x07" + pickle.SETITEM,
        TENSOR + pickle.MARK + pickle.BININT1 + b"\x00" + pickle.BININT1 + b"\x07" + pickle.SETITEMS,
        TENSOR + pickle.MARK + pickle.BININT1 + b"\x07" + pickle.ADDITEMS,
        TENSOR + pickle.BININT1 + b"\x07" + pickle.APPEND,
        TENSOR + pickle.MARK + pickle.BININT1 + b"\x07" + pickle.APPENDS,
    ],
)
def test_nothing_but_placeholders_gets_a_state(tmp_path, program, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__setstate__", lambda *_: pytest.fail("a tensor took a state"))
    with pytest.raises(WeightsError, match="it would set the state of"):
        read_all(archive(tmp_path, program))
    assert safe_pickle._ArchiveUnpickler._rebuild_tensor.__defaults__ is None
