"""The list of what to fetch, against a real server: nothing unasked, nothing that is not what it should be."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from icmformer.errors import ConfigError
from training.data import download
from training.data.download import SOURCES, Source, fetch, main, verify

CONTENT = bytes(range(256)) * 20_000  # 5 MB, over several blocks


@pytest.fixture
def server():
    """A server of one file that keeps the ranges it was asked for, ends early or knows no ranges if it is told to."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            self.server.asked.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            end = self.server.ends_at if self.server.ends_at is not None else len(CONTENT)
            self.wfile.write(CONTENT[start:end])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.asked, http.ranges, http.ends_at = [], True, None
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield http
        http.shutdown()
        thread.join()


MD5 = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
SIZE = len(CONTENT)


def source_of(server, size=SIZE, digest=MD5):
    return Source(f"http://127.0.0.1:{server.server_port}/some.bin", "a test", size, digest)


def test_a_download_that_broke_off_goes_on_where_it_was(server, tmp_path, capsys):
    source = source_of(server)
    server.ends_at = 2_000_000
    with pytest.raises(ConfigError, match="run the same command to go on"):
        fetch(source, tmp_path)
    assert not (tmp_path / "some.bin").exists()
    there = (tmp_path / "some.bin.part").stat().st_size
    server.ends_at = None
    assert fetch(source, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={there}-"]
    fetch(source, tmp_path)
    assert len(server.asked) == 2  # it is there; nobody asks again
    assert "size and md5 as published" in capsys.readouterr().out


@pytest.mark.parametrize("size", [SIZE, None])
@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"], ids=["whole", "too long"])
def test_a_part_with_nothing_left_to_fetch_is_no_dead_end(server, tmp_path, size, left):
    (tmp_path / "some.bin.part").write_bytes(left)
    assert fetch(source_of(server, size), tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.ends_at, server.ranges = 2_000_000, False
    with pytest.raises(ConfigError):
        fetch(source_of(server), tmp_path)
    server.ends_at = None
    assert fetch(source_of(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("size", "digest", "told"),
    [
        (len(CONTENT) + 1, None, "cut short"),
        (len(CONTENT) - 1, None, "of another size"),
        (len(CONTENT), "md5:" + "0" * 32, "published is 000"),
        (None, None, "no archive"),
    ],
)
def test_what_is_not_what_was_published_is_not_kept_under_its_name(server, tmp_path, size, digest, told):
    with pytest.raises(ConfigError, match=told):
        fetch(source_of(server, size, digest), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["some.bin.wrong"]


def test_a_file_that_does_not_fit_is_not_begun(server, tmp_path):
    with pytest.raises(ConfigError, match="has room for"):
        fetch(source_of(server, 10**18), tmp_path)
    assert server.asked == []


def test_archives_without_a_published_sum_are_read_through(tmp_path):
    source = Source("https://example.org/set", "a test")
    good = tmp_path / "set"
    with zipfile.ZipFile(good, "w") as archive:
        archive.writestr("a", CONTENT)
    assert "nobody published its sum" in verify(good, source)
    data = bytearray(good.read_bytes())
    data[len(data) // 2] ^= 1
    good.write_bytes(data)
    with pytest.raises(ConfigError, match="damaged"):
        verify(good, source)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("a")
        info.size = len(CONTENT)
        tar.addfile(info, io.BytesIO(CONTENT))
    good.write_bytes(buffer.getvalue())
    assert "nobody published its sum" in verify(good, source)
    good.write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(ConfigError, match="damaged"):
        verify(good, source)


def test_the_beginning_of_a_sum_is_compared_where_no_more_is_published(tmp_path):
    file = tmp_path / "backbone.pth"
    file.write_bytes(b"abc")  # md5 900150983cd24fb0d6963f7d28e17f72, RFC 1321
    assert verify(file, Source("https://example.org/backbone.pth", "", None, "md5:900150")) == "md5 begins as published"
    with pytest.raises(ConfigError, match="published is 900151"):
        verify(file, Source("https://example.org/backbone.pth", "", None, "md5:900151"))


def test_the_list_is_printed_and_nothing_is_fetched(capsys, monkeypatch):
    monkeypatch.setattr(download, "urlopen", lambda *_, **__: pytest.fail("it went to the network"))
    assert main([]) == 0
    told = capsys.readouterr().out
    for sources in SOURCES.values():
        for source in sources:
            assert source.url in told
    assert "nothing" in told


def test_a_folder_is_checked_file_by_file(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 2
    assert "holds no file of the list" in capsys.readouterr().err
    (tmp_path / "val2017.zip").write_bytes(b"<html>not found</html>")
    with zipfile.ZipFile(tmp_path / "GrabCut.zip", "w") as archive:
        archive.writestr("a", b"b")
    assert main(["check", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "WRONG  " in told
    assert "val2017.zip is cut short: 22 bytes, published ones are 815,585,330" in told
    assert f"ok     {tmp_path / 'GrabCut.zip'}" in told
    assert main(["check", str(tmp_path), "DAVIS.zip"]) == 1
    assert "is missing" in capsys.readouterr().out
    assert main(["check", str(tmp_path), "nothing.zip"]) == 2
