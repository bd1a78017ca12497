import argparse
import os
import pickle
import tarfile
import unittest.mock
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from icmformer.errors import WeightsError
from icmformer.weights.unpickle import Placeholder
from tests.weights.torch_files import read_all


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Authors:
    """An object of somebody's own class."""

    def __init__(self):
        self.weight = 3


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "file.pth"
        torch.save(content, path)
        return path

    return write


def test_tensors_and_containers_come_back(write):
    content = {
        "state_dict": OrderedDict(
            a=torch.arange(6.0).reshape(2, 3).t(), b=torch.tensor([1, 2]), c=torch.ones(2).bfloat16()
        ),
        "config": {"sizes": [1, 2.5, (3, None)], "names": {"x"}, "parameter": torch.nn.Parameter(torch.ones(1))},
    }
    back = read_all(write(content))
    assert list(back["state_dict"]) == ["a", "b", "c"]
    for name, tensor in content["state_dict"].items():
        assert torch.equal(back["state_dict"][name], tensor)
        assert back["state_dict"][name].dtype == tensor.dtype
    assert back["config"]["sizes"] == [1, 2.5, (3, None)]
    assert back["config"]["names"] == {"x"}


def test_other_objects_come_out_inert(write):
    back = read_all(write({"mine": Authors(), "args": argparse.Namespace(lr=1), "n": np.float64(2), "a": np.arange(3)}))
    assert isinstance(back["mine"], Placeholder)
    assert back["mine"].state == {"weight": 3}
    assert all(isinstance(back[key], Placeholder) for key in ("args", "n", "a"))


@pytest.mark.parametrize(
    "payload",
    [
        lambda flag: Call(os.system, f"touch {flag}"),
        lambda flag: Call(eval, f"open({str(flag)!r}, 'w')"),
        lambda flag: Call(exec, f"open({str(flag)!r}, 'w')"),
        lambda flag: Call(os.mkdir, str(flag)),
        lambda flag: Call(torch.save, 1, str(flag)),
        lambda flag: Call(np.save, str(flag), 1),
        lambda flag: Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(flag)))),
        lambda flag: Call(getattr, dict, "get"),
    ],
    ids=["system", "eval", "exec", "mkdir", "torch.save", "numpy.save", "nested", "getattr"],
)
def test_a_pickle_that_calls_is_refused_and_not_run(write, payload, tmp_path):
    flag = tmp_path / "ran"
    with pytest.raises(WeightsError, match="Nothing in it was run"):
        read_all(write({"state_dict": {"a": torch.ones(1)}, "config": payload(flag)}))
    assert not flag.exists()


def test_the_payload_would_run_in_an_ordinary_load(tmp_path):
    flag = tmp_path / "ran"
    pickle.loads(pickle.dumps(Call(os.mkdir, str(flag))))
    assert flag.exists()


def test_a_program_hidden_behind_a_harmless_listing_is_not_run(tmp_path):
    """Two archives in one file: Python's reader finds the one at the end, torch's the one its offset points to."""

    class Writes(torch.nn.Module):
        def forward(self, x):
            return x

    script, plain = tmp_path / "script.pt", tmp_path / "plain.pth"
    torch.jit.save(torch.jit.script(Writes()), script)
    torch.save({"a": torch.ones(1)}, plain)
    both = tmp_path / "both.pth"
    both.write_bytes(script.read_bytes() + plain.read_bytes())
    with unittest.mock.patch("torch.load") as general, unittest.mock.patch("torch.jit.load") as program:
        assert list(read_all(both)) == ["a"]
    assert not general.called
    assert not program.called


@pytest.mark.parametrize("size", [(10**7, 10**6), (5,), (-1,)])
def test_tensors_that_are_not_in_their_storage_are_refused(write, size):
    path = write({"a": torch.ones(4)})
    raw = path.read_bytes()
    assert raw.count(b"K\x04\x85") == 1  # the size, a tuple of one small integer
    with zipfile.ZipFile(path) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    pickled = pickle.dumps(size, 2)[2:-1]
    stride = pickle.dumps((0,) * len(size), 2)[2:-1]
    name = next(n for n in members if n.endswith("data.pkl"))
    before, after = members[name].split(b"K\x04\x85", 1)
    after = after[after.index(b"K\x01\x85") + 3 :]  # the stride follows
    tail = after[after.index(b"\x89") :]
    members[name] = before + pickled + stride + tail
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    with pytest.raises(WeightsError):
        read_all(path)


def test_files_of_other_formats_are_refused(tmp_path):
    old = tmp_path / "old.pth"
    torch.save({"a": torch.ones(1)}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"since torch 1\.6"):
        read_all(old)
    tar = tmp_path / "tar.pth"
    with tarfile.open(tar, "w") as archive:
        archive.addfile(tarfile.TarInfo("\x80x"))
    with pytest.raises(WeightsError, match="not a torch file"):
        read_all(tar)
    bare = tmp_path / "bare.pth"
    bare.write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran"))))
    with pytest.raises(WeightsError):
        read_all(bare)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(write, share):
    path = write({"state_dict": {"a": torch.ones(1000)}})
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(WeightsError):
        read_all(path)


def test_archives_of_other_kinds_are_refused(tmp_path):
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    with pytest.raises(WeightsError, match="TorchScript"):
        read_all(script)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("packed/data.pkl", bytes(10**6))
    with pytest.raises(WeightsError, match="compressed"):
        read_all(packed)
    text = tmp_path / "page.pth"
    text.write_text("<html>Quota exceeded</html>")
    with pytest.raises(WeightsError, match="not a torch file"):
        read_all(text)
    with pytest.raises(WeightsError, match="there is no file"):
        read_all(tmp_path / "missing.pth")
