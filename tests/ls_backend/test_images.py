"""Where images come from, who is shown a token, and which addresses are refused."""

import base64
import os
import re
import socket
import threading
import time

import numpy as np
import pytest
from skimage import data

from icmformer.fetching.addresses import Policy
from icmformer.fetching.filecache import FileCache
from icmformer.serving.errors import FetchError, RefusedHostError, RequestError, TooLargeError, UnusableImageError
from tests.ls_backend.conftest import LEGACY, PERSONAL, png

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
    cup = "/data/upload/1/cup.png"
    images.load(CAT, "7")
    images.load(cup, "7")
    assert tokens(studio) + tokens(studio, cup) == ["Bearer short"] * 2
    later = make_images(token=PERSONAL, files=0)
    later._studio._access = ("expired", time.monotonic() + 99)
    later.load(CAT, "7")
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


@pytest.mark.parametrize(
    "path",
    [
        "/other-app/x.png",
        "/studio/../other-app/x.png",
        "/studio/%2e%2e/other-app/x.png",
        "/studio/%252e%252e/other-app/x.png",
        "/studio/..%2fother-app/x.png",
        "/studio/..;/other-app/x.png",
        "/studio//../../other-app/x.png",
        "/studio/a%2fb/../../other-app/x.png",
        "/studio/a%5Cb/../../other-app/x.png",
        "/studio-two/x.png",
        "//studio/x.png",
        "/studio%2fx.png",
    ],
)
def test_another_application_of_label_studios_host_is_not_shown_the_token(make_images, studio, path):
    url = studio.url + "/studio"
    with pytest.raises(RefusedHostError, match="is not below LABEL_STUDIO_URL, and so not Label Studio's"):
        make_images(token=LEGACY, url=url).load(studio.url + path, "7")
    assert studio.asked == []
    with pytest.raises(FetchError, match="404"):
        make_images(token=LEGACY, url=url, allowed=("localhost",)).load(studio.url + path, "7")
    assert [token for _, token in studio.asked] == [None]


def test_a_redirect_out_of_label_studios_path_is_refused(make_images, studio):
    with pytest.raises(RefusedHostError, match="not below LABEL_STUDIO_URL"):
        make_images(token=LEGACY, url=studio.url + "/data").load(studio.url + "/data/upload/1/out.png", "7")
    assert [path for path, _ in studio.asked] == ["/data/upload/1/out.png"]


def test_label_studio_by_its_other_name(make_images, studio):
    """Tasks may name it as browsers reach it; the backend asks, with the token, where it reaches it itself."""
    there, path = "https://label.example.org/ls", "/data/upload/1/cat.png"
    with pytest.raises(RefusedHostError) as refused:
        make_images(token=LEGACY).load(there + path, "7")
    advised = re.search("by another name, put (.*) into LABEL_STUDIO_ALIASES", str(refused.value))[1]
    image = make_images(token=LEGACY, aliases=(advised,)).load(there + path + "?x=1#y", "7")
    np.testing.assert_array_equal(image.pixels, data.chelsea())
    assert studio.asked == [(path + "?x=1", f"Token {LEGACY}")]
    with pytest.raises(RefusedHostError):  # another application of that host
        make_images(token=LEGACY, aliases=(there,)).load("https://label.example.org/x" + path, "7")


def test_a_label_studio_that_is_let_in_as_a_stranger_says_what_to_set(make_images, studio):
    studio.token_needed = f"Token {LEGACY}"
    elsewhere = make_images(token=LEGACY, url="http://label-studio.invalid", allowed=("localhost",))
    with pytest.raises(FetchError, match=r"answered 401: if that is Label Studio .* LABEL_STUDIO_ALIASES"):
        elsewhere.load(studio.url + CAT, "7")


def test_a_first_byte_may_take_longer_than_a_connection(make_images, studio, monkeypatch):
    monkeypatch.setattr("icmformer.fetching.http._CONNECT_SECONDS", 0.2)
    studio.pause = 0.7
    image = make_images(seconds=5.0).load("/data/upload/1/late.png", "7")
    np.testing.assert_array_equal(image.pixels, data.chelsea())


def test_what_was_checked_is_what_is_connected_to(monkeypatch, studio):
    """A name that says another address at the second look-up gains nothing by it: there is no second look-up."""
    from icmformer.fetching.http import request

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
        ("/data/upload/1/slow.png", FetchError, "in time"),
        ("/drip/old", FetchError, "in time"),
        ("/drip/close", FetchError, "in time"),
        ("/drip/headers", FetchError, "in time"),
        ("/data/upload/1/page.png", FetchError, "a web page of Label Studio"),
        ("/data/upload/1/short.png", FetchError, "ended after"),
        ("/data/local-files/?d=shelf/none.png", FetchError, r"local-files/\?d=shelf/none.png answered 404"),
        ("s3://shelf/none.png", FetchError, "s3://shelf/none.png: .*404"),
        ("/data/upload/1/endless.png", TooLargeError, "more than 4 MB"),
        ("/data/upload/1/text.png", UnusableImageError, "text.png"),
        ("/data/upload/1/cut.png", UnusableImageError, "cut.png"),
        ("bad://x/y", RequestError, "not an image address"),
        ("file:///etc/passwd", RequestError, "not an image address"),
        ("../../etc/passwd", RequestError, "not an image address"),
        ("data:image/png;base64,@@@", RequestError, "not base64"),
        ("data:image/png", RequestError, "no comma"),
        ("http://user:word@localhost/x.png", RequestError, "user name"),
        ("http:///x.png", RequestError, "not an http"),
        ("http://localhost:99999/x.png", RequestError, "not an address"),
    ],
)
def test_what_cannot_be_had_is_told_apart(make_images, address, kind, text):
    patience = {"seconds": 0.5} if text == "in time" else {}
    started = time.monotonic()
    with pytest.raises(kind, match=text):
        make_images(**patience).load(address, "7")
    assert time.monotonic() - started < 5  # what drips goes on for ten seconds


def test_many_who_want_what_does_not_come_wait_once(make_images, studio):
    images, errors = make_images(seconds=2.0), []

    def ask():
        with pytest.raises(FetchError) as caught:
            images.load("/data/upload/1/slow.png", "7")
        errors.append(str(caught.value))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert studio.counts("/data/upload/1/slow.png") == 1
    assert len(errors) == 6


def test_the_addresses_of_a_name_are_tried_in_turn(make_images, studio, monkeypatch):
    port = studio.server_address[1]
    found = [(10, 1, 6, "", ("::1", port, 0, 0)), (2, 1, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: found)
    image = make_images(url=f"http://localhost:{port}").load(CAT, "7")
    np.testing.assert_array_equal(image.pixels, data.chelsea())


def test_a_decoded_image_is_kept_where_no_file_can_be(make_images, studio):
    images = make_images(files=0)
    for _ in range(3):
        images.load(CAT, "7")
    assert studio.counts(CAT) == 1


def test_processes_that_share_files_see_one_image(make_images, studio, tmp_path):
    one, other = make_images(), make_images()
    before = one.load(CAT, "7")
    (file,) = (tmp_path / "files").glob("*.file")
    os.utime(file, (time.time(), time.time() - 4000))  # fetched long ago
    studio.files[CAT] = png(data.coffee())
    after = other.load(CAT, "7")
    assert after.digest != before.digest
    assert one.load(CAT, "7").digest == after.digest


def test_another_label_studios_file_at_the_same_path_is_another(make_images, studio):
    """Kept files outlive a backend, which may then be set up for another one, or for another user."""
    before = make_images(token=LEGACY).load(CAT, "7")
    studio.files[CAT] = png(data.coffee())
    assert make_images(token=LEGACY).load(CAT, "7").digest == before.digest  # kept for an hour
    other = studio.url.replace("127.0.0.1", "localhost")
    assert make_images(token=LEGACY, url=other).load(CAT, "7").digest != before.digest
    studio.token_needed = f"Token {LEGACY}"
    with pytest.raises(FetchError, match="401"):
        make_images(token="another").load(CAT, "7")


def test_label_studios_own_presign_paths_may_lead_to_any_storage(make_images, studio, monkeypatch):
    """The storage is played by the same server under another name, which counts as public here."""
    monkeypatch.setattr("icmformer.fetching.addresses._public", lambda ip: True)
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *a, **k: look_up("127.0.0.1", *a, **k))
    uri = base64.b64encode(b"s3://shelf/cat.png").decode()
    studio.elsewhere = True
    image = make_images().load(f"/tasks/7/presign/?fileuri={uri}", "7")
    np.testing.assert_array_equal(image.pixels, data.chelsea())
    with pytest.raises(RefusedHostError):
        make_images().load("/data/upload/1/away.png", "7")


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
