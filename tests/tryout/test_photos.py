"""Which files are photos, in which order, and how they are kept."""

import numpy as np
import pytest
from PIL import Image

from icmformer.errors import ImageError, ImageTooLargeError
from icmformer.tryout.photos import Photos, UnknownPhotoError, find_photos


def stored(path, value=0, size=(4, 3)):
    Image.new("RGB", size, (value,) * 3).save(path)
    return path


def test_photos_of_a_folder_come_by_name_with_numbers_by_value(tmp_path):
    for name in ("b10.png", "b9.PNG", "a.jpeg", "c.webp", ".hidden.png", "b1.tif"):
        stored(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.png").mkdir()
    stored(tmp_path / "folder.png" / "deep.png")
    assert [path.name for path in find_photos([tmp_path])] == ["a.jpeg", "b1.tif", "b9.PNG", "b10.png", "c.webp"]


def test_files_are_taken_as_they_are_named(tmp_path):
    odd, plain = stored(tmp_path / "x.png").rename(tmp_path / "photo"), stored(tmp_path / "y.png")
    assert find_photos([plain, odd, plain]) == [plain, odd, plain]
    assert find_photos([]) == []


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"missing\.jpg: there is no such file"):
        find_photos([tmp_path / "missing.jpg"])
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(ImageError, match="there are no photos in"):
        find_photos([tmp_path])


def test_the_last_photo_is_kept_and_others_as_far_as_there_is_room(tmp_path):
    paths = [stored(tmp_path / f"{n}.png", n) for n in range(3)]
    photos = Photos(paths, 100, 2 * 4 * 3 * 3)  # room for two
    first = [photos.image(n) for n in range(3)]
    for path in paths:
        path.unlink()
    assert photos.image(2) is first[2]
    assert photos.image(1) is first[1]
    with pytest.raises(ImageError, match=r"0\.png cannot be read"):
        photos.image(0)
    photos = Photos([stored(paths[0], 7)], 100, 0)  # room for none
    assert photos.image(0) is photos.image(0)
    np.testing.assert_array_equal(photos.image(0).pixels, np.full((3, 4, 3), 7))


def test_the_limit_on_pixels_holds(tmp_path):
    photos = Photos([stored(tmp_path / "x.png", size=(20, 20))], 399, 1 << 20)
    with pytest.raises(ImageTooLargeError, match=r"x\.png: the image has 20 x 20 = 400 pixels"):
        photos.image(0)
    with pytest.raises(ImageTooLargeError):
        photos.add("y.png", (tmp_path / "x.png").read_bytes())
    assert photos.names == ["x.png"]


@pytest.mark.parametrize("number", [-1, 1])
def test_numbers_of_no_photo_are_refused(tmp_path, number):
    with pytest.raises(UnknownPhotoError):
        Photos([stored(tmp_path / "x.png")], 100, 0).image(number)
