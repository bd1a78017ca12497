"""The combined set in its community's form: read back the same, trained on, and not run."""

import os
import pickle

import numpy as np
import pytest

from icmformer.errors import ConfigError
from tests.training.data.coco_lvis_sets import IMAGES, build, objects_of, write_community
from training.data.coco_lvis.community import Community, read_pickle
from training.data.objects import any_object, pick_object, without_stuff
from training.data.sources import open_images
from training.loop.config import parse_config
from training.loop.samples import SampleSet


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_communitys_form_reads_back_the_same(tmp_path, protocol, monkeypatch, capsys):
    dumps = pickle.dumps
    monkeypatch.setattr(pickle, "dumps", lambda value: dumps(value, protocol))
    root = write_community(tmp_path / "train", IMAGES)
    assert build(tmp_path / "set", "--community", root, "--images", root / "images") == 0
    assert "2 photos" in capsys.readouterr().out
    stored = objects_of(tmp_path / "set")
    assert stored.keys() == IMAGES.keys()
    for key, objects in stored.items():
        for found, expected in zip(objects, IMAGES[key], strict=True):
            np.testing.assert_array_equal(found.mask, expected.mask)
            assert (found.parent, found.stuff) == (expected.parent, expected.stuff)


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("where", ["hannotation.pickle", "masks/000000000009.pickle"])
def test_a_pickle_with_a_program_in_it_is_refused_and_not_run(tmp_path, capsys, where):
    root = write_community(tmp_path / "train", IMAGES)
    (root / where).write_bytes(pickle.dumps({"000000000009": Harm(tmp_path / "harm")}))
    assert build(tmp_path / "set", "--community", root, "--images", root / "images") == 2
    assert "mkdir" in capsys.readouterr().err
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy.lib\nload\n.",
        b"\x80\x04cbuiltins\ngetattr\n.",
        pickle.dumps(np.float64),
    ],
)
def test_what_is_not_plain_data_is_not_read(tmp_path, data):
    with pytest.raises(ConfigError, match="is not read"):
        read_pickle(data, tmp_path)


def test_damaged_files_of_the_community_are_told(tmp_path):
    root = write_community(tmp_path / "train", IMAGES)
    (root / "masks" / "000000000025.pickle").write_bytes(pickle.dumps(([], {0: (0, 1)})))
    with pytest.raises(ConfigError, match="not of the community's form"):
        Community(root).objects("000000000025")
    (root / "hannotation.pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(ConfigError, match="not a mapping"):
        Community(root)


def test_training_draws_objects_parts_and_at_times_stuff(tmp_path):
    root = write_community(tmp_path / "train", IMAGES)
    assert build(tmp_path / "set", "--community", root, "--images", root / "images", "--name", "mine") == 0
    images = open_images(tmp_path, ["set"])
    assert {r.set for r in images.records} == {"mine"}
    record, (_, layers) = images.records[0], images.load(0)
    objects = IMAGES[record.key]
    seen = set()
    rng = np.random.default_rng(0)
    for _ in range(200):
        kept = without_stuff(layers, record, rng, 0.3)
        target = pick_object(kept, record, rng, merge=0.0, least=0.002)
        (number,) = [n for n, o in enumerate(objects) if np.array_equal(target == 1, o.mask)]
        seen.add(number)
        if not objects[number].stuff:
            continue
        assert any_object(kept)[objects[number].mask].all()
    assert seen == set(range(len(objects)))
    never = without_stuff(layers, record, rng, 0.0)
    assert not any_object(never)[objects[-1].mask].any()
    raw = {"network": "icmformer_vit_tiny224", "data": {"shards": ["set"]}, "samples": 8, "batch": 2}
    sample = SampleSet(images, parse_config(raw)).sample(0)
    assert (sample.target == 1).any()
