"""Every bad request of the corpus: refused as it should be, with nothing given away and nothing broken."""

import json
import logging
import socketserver
import threading
import time

import pytest

from tests.hostile import corpus, edges, studio
from tests.hostile.conftest import LEAKS, SECRET, ask_function, is_told_well

ENTRIES = corpus.entries()
LONGEST = 5.0  # seconds of computing that any of them may take
HANGS = 30.0  # seconds on the clock after which it would have waited for what never comes
LOGGED = 20_000  # characters that a bad request may write into the log


def entries(*targets):
    return [pytest.param(entry, id=entry.name) for entry in ENTRIES if entry.target in targets]


def test_the_corpus_is_large_and_its_entries_are_all_different():
    assert len(ENTRIES) >= 200
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    for target in (corpus.FUNCTION, corpus.BACKEND):
        sent = {
            (entry.method, entry.path, entry.headers, entry.sent())
            for entry in ENTRIES
            if entry.target in (target, corpus.BOTH)
        }
        assert len(sent) >= 200


def test_the_corpus_is_the_same_each_time():
    for entry in ENTRIES[::20]:
        assert entry.sent() == entry.sent()


@pytest.fixture(scope="module")
def right_shapes(context):
    """What the function answers to a good request."""
    good = json.dumps(corpus.function_body()).encode()
    status, text = ask_function(context, good, (("Content-Type", corpus.JSON_TYPE),))
    assert status == 200
    assert json.loads(text)["shapes"]
    return good, text


@pytest.mark.parametrize("entry", entries(corpus.FUNCTION, corpus.BOTH))
def test_the_function_refuses_it_and_goes_on(context, right_shapes, entry, capfd):
    context.logger.lines.clear()
    content, started, begun = entry.sent(), time.process_time(), time.monotonic()
    status, text = ask_function(context, content, entry.headers, entry.method, entry.path)
    assert time.process_time() - started < LONGEST
    assert time.monotonic() - begun < HANGS
    assert status in entry.right, text[:500]
    if status != 200:
        assert is_told_well(text)
    told = context.logger.text() + "".join(capfd.readouterr())
    assert not SECRET.search(told)
    assert "Traceback" not in told
    assert "'trace'" not in told
    assert len(told) < LOGGED
    assert all("\n" not in message for _, message, _ in context.logger.lines)
    good, right = right_shapes
    assert ask_function(context, good, (("Content-Type", corpus.JSON_TYPE),)) == (200, right)


@pytest.fixture(scope="module")
def right_regions(app):
    """What the backend answers to a good request."""
    reply = app.test_client().post("/predict", data=studio.good_request(), headers={"Authorization": corpus.LOGIN})
    assert reply.status_code == 200
    assert reply.json["results"][0]["result"]
    return reply.json


def ask_backend(app, entry, home):
    other = f"127.0.0.1:{1}"
    return app.test_client().open(
        entry.path, method=entry.method, data=entry.sent(home, other), headers=[*entry.headers]
    )


@pytest.mark.parametrize("entry", entries(corpus.BACKEND, corpus.BOTH))
def test_the_backend_refuses_it_and_goes_on(app, hostile_studio, right_regions, entry, caplog, capfd):
    caplog.set_level(logging.DEBUG, "icmformer")
    asked, started, begun = len(hostile_studio.asked), time.process_time(), time.monotonic()
    reply = ask_backend(app, entry, hostile_studio.url)
    assert time.process_time() - started < LONGEST
    assert time.monotonic() - begun < HANGS
    assert reply.status_code in entry.right, reply.text[:500]
    if reply.status_code != 200:
        assert is_told_well(reply.text)
    if entry.right == {401}:
        assert reply.headers["WWW-Authenticate"].startswith("Basic")
    assert all("\n" not in value for _, value in reply.headers)
    told = caplog.text + "".join(capfd.readouterr())
    assert not SECRET.search(told)
    assert "Traceback" not in told
    assert len(told) < LOGGED
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.isprintable() for line in lines), lines
    for head in hostile_studio.asked[asked:]:  # what Label Studio was asked holds nothing but what we mean to ask
        assert head.count(b"\r\n\r\n") == 1
        assert b"\r\nX-Evil" not in head
        assert b"GET /stolen" not in head
        if corpus.TOKEN.encode() in head:  # shown to Label Studio itself alone
            assert b"\r\nHost: " + hostile_studio.url.removeprefix("http://").encode() in head
    again = app.test_client().post("/predict", data=studio.good_request(), headers={"Authorization": corpus.LOGIN})
    assert again.json == right_regions


@pytest.fixture(scope="module")
def open_app(make_app):
    """A backend that fetches from any public host."""
    return make_app(ICMFORMER_ALLOWED_HOSTS="*", LABEL_STUDIO_URL="", LABEL_STUDIO_API_KEY="")


@pytest.mark.parametrize("address", studio.NUMERIC)
def test_no_disguise_opens_a_private_address_to_a_backend_that_fetches_from_everywhere(open_app, address):
    entry = next(entry for entry in ENTRIES if entry.address == address)
    reply = ask_backend(open_app, entry, "")
    assert reply.status_code in (403, 502), reply.text
    kind = "refused address" if reply.status_code == 403 else "image not fetched"
    assert is_told_well(reply.text, kind)
    if reply.status_code == 502:  # a name in disguise that this machine's look-up does not know
        assert "does not resolve" in reply.json["error"]


class Proxy(socketserver.ThreadingTCPServer):
    """Notes that it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.asked = []

    def verify_request(self, request, client_address):
        self.asked.append(client_address)
        return False


@pytest.fixture(scope="module")
def proxied(make_app):
    """A backend that fetches from any public host by a proxy, and the proxy."""
    proxy = Proxy()
    threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{proxy.server_address[1]}"
    options = {"http_proxy": url, "https_proxy": url, "ICMFORMER_ALLOWED_HOSTS": "*"}
    yield make_app(**options, LABEL_STUDIO_URL="", LABEL_STUDIO_API_KEY=""), proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.mark.parametrize("address", studio.NUMERIC)
def test_no_disguise_takes_a_private_address_to_a_proxy(proxied, address):
    app, proxy = proxied
    entry = next(entry for entry in ENTRIES if entry.address == address)
    reply = ask_backend(app, entry, "")
    assert reply.status_code in (403, 502), reply.text
    assert is_told_well(reply.text)
    assert not proxy.asked


def test_the_proxy_would_have_noted_it(proxied):
    app, proxy = proxied
    entry = next(entry for entry in ENTRIES if entry.address == "http://127.0.0.1.example.org/x.png")
    assert ask_backend(app, entry, "").status_code == 502
    assert proxy.asked
    proxy.asked.clear()


@pytest.fixture(scope="module")
def below(make_app, hostile_studio):
    """A backend whose Label Studio is below a path of its host."""
    return make_app(LABEL_STUDIO_URL=hostile_studio.url + "/label-studio")


@pytest.mark.parametrize("path", edges.OUTSIDE)
def test_no_disguise_takes_the_token_out_of_label_studios_path(below, hostile_studio, path):
    asked = len(hostile_studio.asked)
    entry = next(entry for entry in ENTRIES if entry.address == f"@HOME@{path}")
    reply = ask_backend(below, entry, hostile_studio.url)
    assert reply.status_code == 403, reply.text
    assert is_told_well(reply.text, "refused address")
    assert len(hostile_studio.asked) == asked


def test_a_good_request_takes_the_token_to_label_studio(make_app, hostile_studio):
    """What the tests above look for among the bad ones is there to be found."""
    asked = len(hostile_studio.asked)
    app = make_app()  # which has no photo of its own yet
    app.test_client().post("/predict", data=studio.good_request(), headers={"Authorization": corpus.LOGIN})
    assert any(corpus.TOKEN.encode() in head for head in hostile_studio.asked[asked:])


def test_leaks_would_be_found():
    for text in ('  File "/x.py", line 3', "<_io.BytesIO object at 0x7f00>", f"token {corpus.TOKEN}", corpus.LOGIN):
        assert LEAKS.search(text)
