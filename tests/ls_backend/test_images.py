"""Where images come from, who is shown a token, and which addresses are refused."""

import time

import numpy as np
import pytest
from skimage import data

from ls_backend.addresses import Origin, Policy
from ls_backend.errors import FetchError, RefusedHostError, RequestError, TooLargeError, UnusableImageError
from ls_backend.filecache import FileCache
from tests.ls_backend.conftest import LEGACY, PERSONAL

CAT = "/data/upload/1/cat.png"


def tokens(studio, path=CAT):
    return [token for asked, token in studio.asked if asked == path]


def test_a_legacy_token_goes_to_label_studio(make_images, studio):
    studio.token_needed = f"Token {LEGACY}"
    image = make_images(token=LEGACY).load(CAT, "7")
    np.testing.assert_array_equal(image.pixels, data.chelsea())
    assert tokens(studio) == [f"Token {LEGACY}"]


def test_a_personal_token_is_exchanged_first_and_again_when_it_expired(make_images, studio):
    studio.token_needed = "Bearer short"
    images = make_images(token=PERSONAL, files=0)
    images.load(CAT, "7")
    images.load(CAT, "7")
    assert tokens(studio) == ["Bearer short"] * 2
    images._studio._access = ("expired", time.monotonic() + 99)
    images.load(CAT, "7")
    assert tokens(studio)[-2:] == ["Bearer expired", "Bearer short"]


@pytest.mark.parametrize(
    ("token", "advice"), [("", "set LABEL_STUDIO_API_KEY"), ("wrong", "is wrong"), ("a.b.c", "make a new one")]
)
def test_a_token_that_is_not_taken_says_what_to_do(make_images, studio, token, advice):
    studio.token_needed = f"Token {LEGACY}"
    with pytest.raises(FetchError, match=advice):
        make_images(token=token).load(CAT, "7")


def test_no_other_host_is_shown_the_token(make_images, studio):
    elsewhere = make_images(token=LEGACY, url="http://label-studio.invalid", allowed=("localhost",))
    elsewhere.load(studio.url + CAT, "7")
    assert tokens(studio) == [None]


def test_localhost_and_127_0_0_1_are_one(make_images, studio):
    make_images(token=LEGACY).load(studio.url.replace("127.0.0.1", "localhost") + CAT, "7")
    assert tokens(studio) == [f"Token {LEGACY}"]


def test_paths_are_below_a_label_studio_that_is_itself_below_a_path(make_images, studio):
    studio.files["/studio/data/upload/1/cat.png"] = studio.files[CAT]
    for address in (CAT, "/studio" + CAT):
        make_images(url=studio.url + "/studio", files=0).load(address, "7")
    assert studio.counts("/studio" + CAT) == 2


@pytest.mark.parametrize("scheme", ["s3", "gs", "azure-blob"])
def test_cloud_addresses_are_presigned_for_the_task(make_images, studio, scheme):
    image = make_images(token=LEGACY).load(f"{scheme}://shelf/cat.png", "7")
    np.testing.assert_array_equal(image.pixels, data.chelsea())
    with pytest.raises(RequestError, match="no id"):
        make_images().load(f"{scheme}://shelf/other.png", "")


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/x.png",
        "http://localhost:1/x.png",
        "http://[::1]:1/x.png",
        "http://[::ffff:127.0.0.1]/x.png",
        "http://2130706433/x.png",
        "http://example.org/x.png",
        "http://example.org.evil.example/x.png",
        "/data/upload/1/away.png",
    ],
)
def test_other_hosts_and_redirects_to_them_are_refused(make_images, address):
    with pytest.raises(RefusedHostError, match="ICMFORMER_ALLOWED_HOSTS"):
        make_images().load(address, "7")


@pytest.mark.parametrize("allowed", [("*",), ("*.local",)])
def test_a_pattern_does_not_open_private_addresses(make_images, studio, allowed):
    with pytest.raises(RefusedHostError):
        make_images(url="", allowed=allowed).load(studio.url + CAT, "7")


def test_a_private_host_is_fetched_from_when_it_is_named(make_images, studio):
    make_images(url="", allowed=("localhost",)).load(studio.url + CAT, "7")


def test_what_was_checked_is_what_is_connected_to(monkeypatch, studio):
    """A name that says another address at the second look-up gains nothing by it: there is no second look-up."""
    import socket

    from ls_backend.http import request

    answers = iter([[(2, 1, 6, "", ("93.184.216.34", 80))], [(2, 1, 6, "", studio.server_address)]])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: next(answers))
    connected = []
    monkeypatch.setattr(socket, "create_connection", lambda address, *_: connected.append(address) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        request("http://photos.example/x", Policy(None, ("*",)), deadline=time.monotonic() + 5, limit=1)
    assert connected == [("93.184.216.34", 80)]


@pytest.mark.parametrize(
    ("address", "kind", "text"),
    [
        ("/data/upload/1/none.png", FetchError, "404"),
        ("/data/upload/1/circle.png", FetchError, "redirects"),
        ("/data/upload/1/slow.png", FetchError, "could not be fetched|in time"),
        ("/data/upload/1/endless.png", TooLargeError, "more than the 4 MB"),
        ("/data/upload/1/text.png", UnusableImageError, "text.png"),
        ("/data/upload/1/cut.png", UnusableImageError, "cut.png"),
        ("bad://x/y", RequestError, "no address of an image"),
        ("file:///etc/passwd", RequestError, "no address of an image"),
        ("../../etc/passwd", RequestError, "no address of an image"),
        ("data:image/png;base64,@@@", RequestError, "not base64"),
        ("data:image/png", RequestError, "no comma"),
        ("http://user:word@localhost/x.png", RequestError, "user name"),
        ("http:///x.png", RequestError, "no http"),
        ("http://localhost:99999/x.png", RequestError, "no address"),
    ],
)
def test_what_cannot_be_had_is_told_apart(make_images, address, kind, text):
    started = time.monotonic()
    with pytest.raises(kind, match=text):
        make_images().load(address, "7")
    assert time.monotonic() - started < 4


def test_a_server_that_is_down_is_told(make_images):
    with pytest.raises(FetchError, match="could not be fetched"):
        make_images(url="http://127.0.0.1:9").load(CAT, "7")
    with pytest.raises(FetchError, match="set LABEL_STUDIO_URL"):
        make_images(url="").load(CAT, "7")


def test_an_image_of_too_many_pixels_is_refused_by_its_header(make_images):
    with pytest.raises(TooLargeError):
        make_images(max_pixels=1000).load(CAT, "7")


def test_files_are_kept_within_bounds_and_for_a_while(tmp_path):
    cache = FileCache(tmp_path, 100, seconds=60)
    for name in "abc":
        cache.put(name, name.encode() * 40)
        time.sleep(0.02)
    assert cache.get("a") is None
    assert cache.get("b") == b"b" * 40
    time.sleep(0.02)
    cache.put("d", b"d" * 40)
    assert cache.get("c") is None  # used longer ago than b
    assert cache.get("b")
    cache.put("huge", b"x" * 101)
    assert cache.get("huge") is None
    assert FileCache(tmp_path, 100, seconds=0).get("b") is None
    assert not list(tmp_path.glob("*.part"))


def test_a_cache_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = FileCache(blocked / "below", 100)
    cache.put("a", b"a")
    assert cache.get("a") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://a.example/x", "http://A.example:80/y", True),
        ("http://a.example", "https://a.example", False),
        ("http://a.example:8080", "http://a.example", False),
        ("http://127.0.0.1:8080", "http://localhost:8080/sub", True),
    ],
)
def test_origins(one, other, same):
    assert (Origin.of(one) == Origin.of(other)) is same
