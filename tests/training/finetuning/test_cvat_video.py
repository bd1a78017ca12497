"""*CVAT for video 1.1*: tracks, of which keyframes are read."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tests.training.finetuning import cvat_exports as cvat
from tests.training.finetuning.test_cvat import HEIGHT, WIDTH, disc, drawn, photo_file, read, ring
from training.finetuning.readers.annotations import AnnotationError


def frames(folder, *numbers, subset=""):
    return [photo_file(folder, f"images/{subset}/frame_{number:06}.PNG", value=number) for number in numbers]


def test_shapes_of_one_frame_are_read_from_their_tracks(tmp_path):
    root = cvat.export(cvat.video())
    cvat.add_track(root, 0, cvat.mask_shape(ring(), frame=2, source="auto"))
    cvat.add_track(root, 1, cvat.ellipse_shape(8, 8, 4, 3, frame=2, label_id=2))
    cvat.add_track(root, 2, cvat.mask_shape(disc(30, 50), frame=5))
    files = frames(tmp_path, 0, 2, 3, 5, 6)
    photos, report = read(root, tmp_path)
    assert [photo.photo.file for photo in photos] == [files[1], files[3]]
    assert [photo.photo.identity for photo in photos] == ["frame_000002", "frame_000005"]
    assert {(photo.photo.group, photo.photo.size) for photo in photos} == {("video lorry.mp4", (HEIGHT, WIDTH))}
    assert [(a.label, a.source) for a in photos[0].annotations] == [("nucleus", "auto"), ("debris", "manual")]
    np.testing.assert_array_equal(drawn(photos[0])[1]["track 0"], ring())
    np.testing.assert_array_equal(drawn(photos[1])[0] > 0, disc(30, 50))
    assert not report.rows


def test_only_keyframes_of_a_track_are_objects(tmp_path):
    root = cvat.export(cvat.video())
    track = ElementTree.SubElement(root, "track", id="4", label="nucleus", source="manual")
    for frame in range(6):
        square = cvat.shape("polygon", np.add([5, 5, 15, 5, 15, 15, 5, 15], frame).tolist(), occluded=frame == 3)
        cvat.add_tracked(track, square, frame, outside=frame == 5, keyframe=frame in (0, 3, 5))
    frames(tmp_path, *range(6))
    photos, report = read(root, tmp_path)
    assert [photo.photo.identity for photo in photos] == ["frame_000000", "frame_000003"]
    for photo, start in zip(photos, (5, 8), strict=True):
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[start : start + 10, start : start + 10] = True
        np.testing.assert_array_equal(drawn(photo)[0] > 0, expected)
    assert report.rows == [("skipped", "interpolated between keyframes", "track 4 of task 7", "3 frames")]


def test_tracks_of_a_group_are_one_object_of_a_frame(tmp_path):
    root = cvat.export(cvat.video())
    for number, mask in enumerate((disc(10, 10), disc(30, 50))):
        cvat.add_track(root, number, cvat.mask_shape(mask, group=3))
    frames(tmp_path, 0)
    (photo,), _ = read(root, tmp_path)
    labels, _ = drawn(photo)
    assert labels.max() == 1
    np.testing.assert_array_equal(labels > 0, disc(10, 10) | disc(30, 50))


def test_tracks_of_a_project_are_of_their_task(tmp_path):
    """Frames are numbered through the tasks of a subset."""
    root = cvat.export(cvat.video(1, "a.mp4"), cvat.video(2, "b.mp4", 90, 80), cvat.images(3), project=True)
    for number, (task, subset, frame) in enumerate((("1", "train", 0), ("2", "test", 0), ("3", "train", 9))):
        cvat.add_track(root, number, cvat.mask_shape(ring(), frame=frame), task_id=task, subset=subset)
    files = [*frames(tmp_path, 0, subset="train"), photo_file(tmp_path, "images/test/frame_000000.PNG", (90, 80))]
    photos, report = read(root, tmp_path)
    found = {(p.photo.identity, p.photo.file, p.photo.size, p.photo.group) for p in photos}
    assert found == {
        ("train/frame_000000", files[0], (HEIGHT, WIDTH), "video a.mp4"),
        ("test/frame_000000", files[1], (80, 90), "video b.mp4"),
    }
    assert [row[1:3] for row in report.rows] == [("a track of a task of images", "track 2 of task 3")]


def test_a_task_of_images_says_not_which_photo_a_frame_is(tmp_path):
    root = cvat.export(cvat.images())
    cvat.add_track(root, 0, cvat.mask_shape(ring()))
    frames(tmp_path, 0)
    with pytest.raises(AnnotationError, match=r"annotations\.xml is .* 'CVAT for images 1\.1'"):
        read(root, tmp_path)


def test_a_job_has_the_size_of_its_frames_beside_it(tmp_path):
    root = cvat.export(
        ("job", {"id": "9", "mode": "interpolation", "assignee": {"username": "ada", "email": "a@b.c"}}),
        ("original_size", {"width": str(WIDTH), "height": str(HEIGHT)}),
    )
    cvat.add_track(root, 0, cvat.mask_shape(ring()))
    frames(tmp_path, 0)
    (photo,), _ = read(root, tmp_path)
    assert (photo.photo.size, photo.photo.group) == ((HEIGHT, WIDTH), "job 9")
    assert photo.annotations[0].annotator == "ada"


def test_what_cannot_be_used_costs_itself(tmp_path):
    root = cvat.export(cvat.video())
    cvat.add_track(root, 0, cvat.shape("rectangle", [1, 1, 5, 5]))
    for number, frame in enumerate(("-1", "x", "nan", "1e300", "9" * 5000, "2.5"), 1):
        cvat.add_track(root, number, cvat.mask_shape(ring()))[0].set("frame", frame)
    damaged = cvat.add_track(root, 8, cvat.mask_shape(disc(10, 10)))
    damaged[0].set("rle", "3")
    cvat.add_track(root, 9, cvat.mask_shape(ring()))
    cvat.add_track(root, 10, cvat.mask_shape(ring(), frame=77))
    ElementTree.SubElement(root, "tag", label="blurred", frame="0")
    frames(tmp_path, 0)
    (photo,), report = read(root, tmp_path)
    np.testing.assert_array_equal(drawn(photo, report)[0] > 0, ring())
    assert report.counts("skipped") == {
        "a frame that is no number": 6,
        "box": 1,
        "tag": 1,
        "no such photo": 1,
        "run lengths that do not fill their box": 1,
    }
