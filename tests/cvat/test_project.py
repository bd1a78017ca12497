"""Jobs of CVAT read through its API: the same photos, masks and groups as CVAT's own export of them."""

import errno
import io
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from cvat_sdk.models import LabeledShapeRequest
from PIL import Image, ImageOps

from icmformer.errors import DiskFullError
from icmformer.fetching.cvat import CvatError
from icmformer.fetching.filecache import FileCache
from tests.cvat.standin import EVE, Job, Task
from tests.training.finetuning import cvat_exports as exports
from tests.training.finetuning.test_cvat import HEIGHT, WIDTH, disc, drawn, ring
from training.finetuning.photos import prepare_photos
from training.finetuning.projects import cvat_job
from training.finetuning.projects.cvat import CvatProject
from training.finetuning.projects.project import MARK
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.cvat import parse_cvat, read_cvat
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport

ACCEPTED = {"stage": "acceptance", "state": "completed"}


def png(value, size=(WIDTH, HEIGHT), mode="RGB", **options):
    out = io.BytesIO()
    colour = (value, 0, 0) if mode == "RGB" else value
    Image.new(mode, size, colour).save(out, "PNG", **options)
    return out.getvalue()


def frame(name, value=0):
    return name, png(value), WIDTH, HEIGHT


def photos(number):
    return [frame(f"{n}.png", n) for n in range(number)]


def stored(*made):
    """Shapes as the API gives them back: with ids."""
    plain = [{**json.loads(json.dumps(shape.to_dict(), default=str)), "type": str(shape.type)} for shape in made]
    return [{"rotation": 0.0, "outside": False, "attributes": [], **shape, "id": n} for n, shape in enumerate(plain, 1)]


def on(number, *made):
    """These shapes on a frame."""
    return [LabeledShapeRequest(**{**shape.to_dict(), "type": shape.type, "frame": number}) for shape in made]


def read(project, folder):
    report = ReadingReport()
    project.snapshot(folder)
    return list(project.photos(folder, report)), report


@pytest.fixture
def project(reach, tmp_path):
    def make(server, kind="task", number=7, cache=1 << 20, **more):
        kept = FileCache(tmp_path / "cache", cache, float("inf")) if cache else None
        return CvatProject(reach(server), kind, number, cache=kept, **more)

    return make


SHAPES = [
    exports.mask_shape(ring(), z_order=2),
    exports.mask_shape(disc(3, 3), source="semi-auto", label_id=2),
    exports.ellipse_shape(31.304, 18.7, 15.2, 6.1, rotation=33.333),
    exports.shape("polygon", [5.123456, 5, 25.987654, 7.5, 11.111, 30.005], group=4),
    exports.shape("polygon", [40, 5, 55, 7.5, 50, 30.005], group=4, z_order=-1),
    exports.shape("rectangle", [1, 1, 9, 9]),
    exports.shape("polyline", [1, 1, 9, 9]),
    exports.shape("points", [1, 1]),
]


def outcome(photo, report):
    """What training gets of a photo."""
    labels, objects = drawn(photo, report)
    file = photo.photo.file
    content = file if isinstance(file, bytes) else file.read_bytes()
    told = [(a.name, a.label, a.source, a.annotator) for a in photo.annotations]
    facts = (photo.photo.identity, photo.photo.size, photo.photo.group, photo.photo.orientation, photo.photo.shown_by)
    return facts, content, told, labels.tobytes(), sorted(objects)


def test_images_are_read_as_from_cvats_own_export(serve, project, tmp_path):
    names = ["frame_000004.png", "b/two.png", "untouched.png"]
    frames = [frame(name, value) for value, name in enumerate(names)]
    job = Job(1, 0, 2, shapes=stored(*SHAPES, *on(1, exports.mask_shape(disc(20, 20)))))
    found, report = read(project(serve(Task(7, frames, [job], exports.LABELS))), tmp_path / "snapshot")

    root = exports.export(("task", {"id": "7", "mode": "annotation", "assignee": {"username": "eve"}}))
    exports.add_image(root, 0, names[0], WIDTH, HEIGHT, SHAPES)
    exports.add_image(root, 1, names[1], WIDTH, HEIGHT, on(1, exports.mask_shape(disc(20, 20))))
    for name, content, *_ in frames:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(content)
    own = ReadingReport()
    tree = parse_cvat(ElementTree.tostring(root), "annotations.xml")
    expected = list(read_cvat(tree, PhotoFinder(tmp_path / "images"), own, "annotations.xml"))
    assert [outcome(photo, report) for photo in found] == [outcome(photo, own) for photo in expected]
    assert len(found) == 2
    assert found[0].photo.group == "task 7"
    assert sorted(report.rows) == sorted(own.rows)
    np.testing.assert_array_equal(drawn(found[1])[0] > 0, disc(20, 20))


def track(number, *keys):
    """A track: (frame, shape, outside) of each key frame."""
    shapes = [
        {"id": n, "type": str(s.type), "frame": at, "points": list(s.points), "outside": out, "z_order": 0}
        for n, (at, s, out) in enumerate(keys)
    ]
    return {"id": number, "label_id": 1, "frame": keys[0][0], "group": 0, "source": "manual", "shapes": shapes}


def test_a_video_is_read_as_from_cvats_own_export(serve, project, tmp_path):
    square = [exports.shape("polygon", np.add([5, 5, 15, 5, 15, 15, 5, 15], n).tolist()) for n in range(6)]
    keys = [(0, square[0], False), (3, square[3], False), (5, square[5], True)]
    numbers = range(10, 22, 2)
    job = Job(1, 0, 5, tracks=[track(0, *keys)], shapes=stored(*on(4, exports.mask_shape(ring()))))
    lorry = Task(7, [("clips/lorry.mp4", b"", WIDTH, HEIGHT)], [job], exports.LABELS, "interpolation", start=10, step=2)
    lorry.files = {n: png(n) for n in range(6)}
    found, report = read(project(serve(lorry)), tmp_path / "snapshot")

    root = exports.export(exports.video())
    element = ElementTree.SubElement(root, "track", id="0", label="nucleus", source="manual")
    for n in range(6):
        exports.add_tracked(element, square[n], numbers[n], outside=n == 5, keyframe=n in (0, 3, 5))
    single = ElementTree.SubElement(root, "track", id="1", label="nucleus", source="manual")
    exports.add_tracked(single, exports.mask_shape(ring()), numbers[4])
    for n, number in enumerate(numbers):
        (tmp_path / f"frame_{number:06}.PNG").write_bytes(png(n))
    own = ReadingReport()
    tree = parse_cvat(ElementTree.tostring(root), "annotations.xml")
    expected = {p.photo.identity: p for p in read_cvat(tree, PhotoFinder(tmp_path), own, "annotations.xml")}
    assert sorted(photo.photo.identity for photo in found) == sorted(expected)
    for photo in found:
        other = expected[photo.photo.identity]
        assert photo.photo.file == other.photo.file.read_bytes()
        assert (
            (photo.photo.group, photo.photo.size)
            == (other.photo.group, other.photo.size)
            == (
                "video lorry.mp4",
                (HEIGHT, WIDTH),
            )
        )
        np.testing.assert_array_equal(drawn(photo)[0], drawn(other)[0])
    assert report.rows == own.rows == [("skipped", "interpolated between keyframes", "track 0 of task 7", "3 frames")]


def test_jobs_that_are_no_annotators_work_are_passed_over(serve, project, tmp_path):
    mask = exports.mask_shape(ring())
    kinds = [{}, {"type": "ground_truth"}, {"type": "replica"}, {"dimension": "3d"}, ACCEPTED]
    jobs = [Job(n, n, n, kind, shapes=stored(*on(n, mask))) for n, kind in enumerate(kinds)]
    server = serve(Task(7, photos(5), jobs, exports.LABELS, project=3))
    found, report = read(project(server), tmp_path / "all")
    assert [photo.photo.identity for photo in found] == ["0.png", "4.png"]
    assert report.counts("skipped") == {
        "a ground truth job, which repeats frames of annotation jobs": 1,
        "a replica job, which repeats frames of annotation jobs": 1,
        "a job without photos": 1,
    }
    found, report = read(project(server, accepted=True), tmp_path / "accepted")
    assert [photo.photo.identity for photo in found] == ["4.png"]
    assert report.counts("skipped")["a job that is not accepted"] == 1
    found, _ = read(project(server, "job", 1), tmp_path / "named")
    assert [photo.photo.identity for photo in found] == ["1.png"]
    found, _ = read(project(server, "project", 3), tmp_path / "project")
    assert [photo.photo.identity for photo in found] == ["default/0.png", "default/4.png"]


def test_automatic_shapes_count_once_somebody_has_been_through_the_job(serve, project, tmp_path):
    shapes = stored(exports.mask_shape(ring(), source="auto"), exports.mask_shape(disc(3, 3), source="semi-auto"))
    job = Job(1, 0, 0, shapes=shapes)
    server = serve(Task(7, [frame("a.png")], [job], exports.LABELS))
    (photo,), report = read(project(server), tmp_path / "open")
    assert [a.source for a in photo.annotations] == ["semi-auto"]
    assert report.counts("skipped") == {cvat_job.UNREVIEWED: 1}
    for done in ({"state": "completed"}, {"stage": "validation", "state": "new"}):
        job.facts = done
        (photo,), report = read(project(server), tmp_path / f"{done}")
        assert [a.source for a in photo.annotations] == ["auto", "semi-auto"]
        assert not report.rows


def test_a_frame_of_two_jobs_comes_once_with_what_was_changed_last(serve, project, tmp_path):
    frames = photos(4)
    old = Job(1, 0, 2, {"updated_date": "2026-01-02T00:00:00Z"}, stored(*on(2, exports.mask_shape(ring()))))
    new = Job(2, 2, 3, {"updated_date": "2026-01-02T01:00:00Z"}, stored(*on(2, exports.mask_shape(disc(9, 9)))))
    found, report = read(project(serve(Task(7, frames, [old, new], exports.LABELS))), tmp_path / "s")
    assert [photo.photo.identity for photo in found] == ["2.png"]
    np.testing.assert_array_equal(drawn(found[0])[0] > 0, disc(9, 9))
    assert len(found[0].others) == 1
    assert report.counts("decided") == {"photo annotated several times": 1}


def test_photos_of_one_name_in_two_tasks_are_two(serve, project, tmp_path):
    tasks = [
        Task(
            n, [frame("a.png", n)], [Job(n, 0, 0, shapes=stored(exports.mask_shape(ring())))], exports.LABELS, project=3
        )
        for n in (1, 2)
    ]
    found, _ = read(project(serve(*tasks), "project", 3), tmp_path / "s")
    assert [photo.photo.identity for photo in found] == ["task 1/default/a.png", "task 2/default/a.png"]
    assert found[0].photo.file != found[1].photo.file


def test_photos_become_training_data_as_cvat_shows_them(serve, project, tmp_path):
    """16 bits, and a file that still has its EXIF orientation: its size in CVAT says that it is shown upright."""
    rows = np.linspace(0, 40000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    deep, turned = io.BytesIO(), io.BytesIO()
    Image.fromarray(rows).save(deep, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(turned, "PNG", exif=exif)  # stored on its side
    frames = [("deep.png", deep.getvalue(), WIDTH, HEIGHT), ("turned.png", turned.getvalue(), WIDTH, HEIGHT)]
    shapes = [shape for n in range(2) for shape in on(n, exports.mask_shape(disc(9, 50)))]
    server = serve(Task(7, frames, [Job(1, 0, 1, shapes=stored(*shapes))], exports.LABELS))
    reading, report = project(server), ReadingReport()
    reading.snapshot(tmp_path / "s")
    made = prepare_photos(reading.photos(tmp_path / "s", report), tmp_path / "out", report)
    assert [(photo.height, photo.width) for photo in made] == [(HEIGHT, WIDTH)] * 2
    for photo in made:
        with Image.open(tmp_path / "out" / "masks" / f"{photo.stem}.png") as labels:
            np.testing.assert_array_equal(np.asarray(labels) > 0, disc(9, 50))
    equalised = ImageOps.equalize(Image.fromarray((rows // (40000 / 255)).astype(np.uint8)))
    with Image.open(tmp_path / "out" / "images" / f"{made[0].stem}.png") as shown:
        difference = np.abs(np.asarray(shown.convert("L"), int) - np.asarray(equalised, int))
    assert difference.max() <= 2


def test_deleted_frames_are_left_out(serve, project, tmp_path):
    frames = photos(2)
    job = Job(1, 0, 1, shapes=stored(exports.mask_shape(ring()), *on(1, exports.mask_shape(ring()))))
    server = serve(Task(7, frames, [job], exports.LABELS, deleted=(0,)))
    found, report = read(project(server), tmp_path / "s")
    assert [photo.photo.identity for photo in found] == ["1.png"]
    assert list(report.counts("skipped")) == ["a shape of a deleted frame"]


def test_honeypots_are_left_out_as_in_cvats_exports(serve, project, tmp_path):
    job = Job(1, 0, 1, shapes=stored(exports.mask_shape(ring()), *on(1, exports.mask_shape(ring()))))
    server = serve(Task(7, photos(2), [job], exports.LABELS, honeypots=(1,)))
    found, report = read(project(server), tmp_path / "s")
    assert [photo.photo.identity for photo in found] == ["0.png"]
    assert list(report.counts("skipped")) == ["a shape of a honeypot"]


def frames_asked(server):
    return [path for _, path in server.asked if "type=frame" in path]


def test_frames_are_fetched_one_at_a_time_and_never_twice(serve, project, tmp_path):
    masks = [shape for n in (5, 1, 3) for shape in on(n, exports.mask_shape(ring()))]
    server = serve(Task(7, photos(6), [Job(1, 0, 5, shapes=stored(*masks))], exports.LABELS))
    reading = project(server)
    reading.snapshot(tmp_path / "s")
    assert frames_asked(server) == []
    for seen, _ in enumerate(reading.photos(tmp_path / "s", ReadingReport()), 1):
        assert len(frames_asked(server)) == seen
    assert [path.partition("number=")[2].partition("&")[0] for path in frames_asked(server)] == ["1", "3", "5"]
    again = list(project(server).photos(tmp_path / "s", ReadingReport()))
    assert len(again) == 3
    assert len(frames_asked(server)) == 3


def test_a_stopped_snapshot_goes_on_with_the_next_job(serve, project, tmp_path):
    jobs = [Job(n, n, n, shapes=stored(*on(n, exports.mask_shape(ring())))) for n in range(4)]
    server = serve(Task(7, photos(4), jobs, exports.LABELS))
    server.faults = [("/api/jobs/2/annotations", 503, 3)]
    folder = tmp_path / "s"
    with pytest.raises(CvatError, match="503"):
        project(server).snapshot(folder)
    assert not (folder / MARK).exists()
    with pytest.raises(AnnotationError, match="no whole snapshot"):
        list(project(server).photos(folder, ReadingReport()))
    server.asked.clear()
    found, _ = read(project(server), folder)
    assert len(found) == 4
    assert [path for _, path in server.asked if "annotations" in path] == [
        "/api/jobs/2/annotations/",
        "/api/jobs/3/annotations/",
    ]
    server.asked.clear()
    project(server).snapshot(folder)
    assert server.asked == []


def test_a_snapshot_of_something_else_is_begun_anew(serve, project, tmp_path):
    mask = exports.mask_shape(ring())
    jobs = [Job(n, n, n, facts, shapes=stored(*on(n, mask))) for n, facts in enumerate(({}, ACCEPTED))]
    server = serve(Task(7, photos(2), jobs, exports.LABELS))
    assert len(read(project(server), tmp_path / "s")[0]) == 2
    found, _ = read(project(server, accepted=True), tmp_path / "s")
    assert [photo.photo.identity for photo in found] == ["1.png"]


def test_a_full_disk_is_said_and_the_same_call_goes_on(serve, project, tmp_path, monkeypatch):
    job = Job(1, 0, 0, shapes=stored(exports.mask_shape(ring())))
    server, folder = serve(Task(7, photos(1), [job], exports.LABELS)), tmp_path / "s"
    with monkeypatch.context() as full:
        full.setattr("os.replace", no_room)
        with pytest.raises(DiskFullError, match="the disk is full"):
            project(server).snapshot(folder)
    assert list(folder.iterdir()) == []
    assert len(read(project(server), folder)[0]) == 1


def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_job_that_vanishes_meanwhile_costs_itself(serve, project, tmp_path):
    jobs = [Job(n, n, n, shapes=stored(*on(n, exports.mask_shape(ring())))) for n in range(2)]
    server = serve(Task(7, photos(2), jobs, exports.LABELS))
    server.faults = [("/api/jobs/0/annotations", 404, 1)]
    found, report = read(project(server), tmp_path / "s")
    assert [photo.photo.identity for photo in found] == ["1.png"]
    assert list(report.counts("skipped")) == ["a job that was deleted meanwhile"]


def test_a_photo_that_cvat_cannot_give_is_passed_over_and_a_cvat_that_is_gone_is_not(serve, project, tmp_path):
    masks = [shape for n in range(3) for shape in on(n, exports.mask_shape(ring()))]
    server = serve(Task(7, photos(3), [Job(1, 0, 2, shapes=stored(*masks))], exports.LABELS))
    server.faults = [("number=0", 400, 1), ("number=1", 500, 9)]
    found, report = read(project(server), tmp_path / "s")
    assert [photo.photo.identity for photo in found] == ["2.png"]
    assert report.counts("skipped") == {"a photo that CVAT does not give": 2}
    server.faults = [("number=1|/api/jobs/1$|/api/jobs/1\\?", 503, 99)]
    with pytest.raises(CvatError, match="503"):
        list(project(server).photos(tmp_path / "s", ReadingReport()))


def test_there_is_no_such_task(serve, project, tmp_path):
    with pytest.raises(CvatError, match="task 8: CVAT answers 404"):
        project(serve(Task(7, [], [], {})), number=8).snapshot(tmp_path / "s")


def test_identity_and_name_hold_no_secret(serve, project):
    found = project(serve(Task(7, [], [], {})), accepted=True)
    assert found.identity == f"cvat {found.cvat.url} task 7 accepted"
    assert found.name == f"task 7 of {found.cvat.url}"


BAD = [[1], [float("nan")] * 6, [1e300] * 6]


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        *((kind, points) for kind in ("mask", "polygon", "ellipse") for points in BAD),
        ("mask", [0, 3, 0, 0, 1, 1]),
        ("mask", [0, 4, -5, 0, -4, 1]),
        ("ellipse", [9, 9, 5, 5]),
    ],
)
def test_a_damaged_shape_costs_itself(serve, project, tmp_path, kind, points):
    bad = {**stored(exports.mask_shape(ring()))[0], "type": kind, "points": points}
    good = stored(exports.mask_shape(disc(9, 9)))[0]
    server = serve(Task(7, [frame("a.png")], [Job(1, 0, 0, shapes=[bad, good])], exports.LABELS))
    (photo,), report = read(project(server), tmp_path / "s")
    np.testing.assert_array_equal(drawn(photo, report)[0] > 0, disc(9, 9))
    assert EVE["username"] == photo.annotations[0].annotator
