"""Label Studio: JSON, JSON-MIN, `completions` and files of a target storage give the same photos and masks."""

import json

import numpy as np
import pytest

from tests.training.finetuning.label_studio_exports import (
    SIZES,
    blob,
    brush,
    drawn,
    packed,
    read,
    save,
    skipped,
)
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.label_studio import is_label_studio, label_studio_tasks


@pytest.fixture
def folder(tmp_path):
    for name, size in SIZES.items():
        save(tmp_path / name, size)
    return tmp_path


def json_min(number, mask, name="a.png", **more):
    flat = {"rle": packed(mask), "format": "rle", "brushlabels": ["Cell"]}
    flat |= {"original_width": mask.shape[1], "original_height": mask.shape[0]}
    facts = {"annotator": 1, "annotation_id": number, "lead_time": 3.5, "created_at": "2024-01-01T00:00:00Z"}
    return {"image": name, "id": 7, "mask": [flat], "quality": "good", **facts, **more}


def test_json_min(folder):
    first, second = blob((40, 60)), blob((40, 60), 5)
    content = [
        json_min(2, second, updated_at="2024-02-01T00:00:00Z", quality="bad"),
        json_min(3, first, updated_at="2024-01-01T00:00:00Z"),
    ]
    (photo,), report = read(content, folder)
    np.testing.assert_array_equal(drawn(photo)[0], second)
    assert photo.annotations[0].label == "Cell"
    assert photo.annotations[0].annotator == "1"
    assert report.counts("decided") == {"annotation passed over for another of its task": 1}


def test_json_min_with_unified_labels_has_one_object(folder):
    entry = json_min(2, blob((40, 60)))
    bare = {key: value for key, value in entry["mask"][0].items() if key != "brushlabels"}
    entry |= {"mask": [bare], "label": [{**bare, "labels": ["Cell"]}]}
    (photo,), _ = read([entry], folder)
    assert [annotation.label for annotation in photo.annotations] == ["Cell"]


def test_json_min_does_not_say_which_image(folder):
    entry = {**json_min(2, blob((40, 60))), "image": "a.png", "second": "b.png"}
    assert read([entry], folder)[0] == []
    config = (
        '<View><Image name="r" value="$second"/><Image name="l" value="$image"/><Brush name="mask" toName="r"/></View>'
    )
    assert read([entry], folder, config=config)[0][0].photo.file.name == "b.png"
    pages = {**json_min(2, blob((40, 60))), "image": ["a.png", "b.png"]}
    config = '<View><Image name="r" valueList="$image"/><Brush name="mask" toName="r"/></View>'
    for options in ({}, {"config": config}):
        photos, report = read([pages], folder, **options)
        assert photos == []
        assert skipped(report) == {"which photo is meant is not told": 1}
        assert "export the project as JSON" in report.rows[0][3]
    wide = {**json_min(2, blob((30, 90))), "image": ["a.png", "wide.png"]}
    for options in ({}, {"config": config}):
        assert read([wide], folder, **options)[0][0].photo.file.name == "wide.png"


def test_completions_of_old_and_files_of_a_target_storage(folder):
    result = [brush(blob((40, 60)))]
    data = {"image": "a.png"}
    contents = [
        [{"id": 7, "data": data, "completions": [{"id": 1, "result": result, "created_at": 1568825452}]}],
        {"id": 7, "data": data, "completions": [{"id": 1, "result": result}, {"id": 2, "skipped": True, "result": []}]},
        {"id": 7, "data": data, "annotations": [{"id": 1, "result": result}]},
        {"id": 1, "result": result, "task": {"id": 7, "data": data}, "completed_by": {"id": 1, "email": "x@y.z"}},
        {"id": 1, "result": result, "task": {"id": 7, **data}},
        [{"id": 1, "result": result, "task": {"id": 7, "data": data}}],
        [{"data": "a.png", "annotations": [{"result": result}]}],
    ]
    for content in contents:
        content = json.loads(json.dumps(content))
        assert is_label_studio(content)
        (photo,), _ = read(content, folder)
        np.testing.assert_array_equal(drawn(photo)[0], blob((40, 60)))
        assert label_studio_tasks(label_studio_tasks(content)) == label_studio_tasks(content)


def test_annotations_without_their_tasks_say_what_to_do(folder):
    content = {"id": 1, "result": [brush(blob((40, 60)))], "task": 7}
    assert is_label_studio(content)
    with pytest.raises(AnnotationError, match="export the project as JSON"):
        read(content, folder)


@pytest.mark.parametrize(
    "content",
    [
        None,
        3,
        "x",
        [],
        [3],
        [{}],
        {"images": [], "annotations": [], "categories": []},  # COCO
        {"version": "5", "shapes": [{"points": [[1, 2]]}], "imagePath": "a.png"},  # labelme
        {"info": {}, "items": []},
        [{"image": "a.png", "annotations": [{"label": "x", "coordinates": {}}]}],  # Create ML
        [{"id": 1, "segmentation": [[1, 2, 3, 4, 5, 6]], "image_id": 1}],
    ],
)
def test_other_json_is_not_taken_for_label_studios(folder, content):
    assert not is_label_studio(content)
    assert label_studio_tasks(content) is None
    with pytest.raises(AnnotationError, match="no export of Label Studio"):
        read(content, folder)
