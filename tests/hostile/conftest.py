"""Both servers in this process, set up by their own settings, with secrets that must never come out."""

import json
import os
import re
import time
import uuid
from unittest import mock

import nuclio_sdk
import pytest
from nuclio_sdk.event import EventDeserializerKinds

from ls_backend.app import create_app
from ls_backend.backend import Backend
from ls_backend.settings import BackendSettings
from serverless import main
from serverless.interactor import load
from serverless.settings import FunctionSettings
from tests.conftest import ROOT
from tests.hostile import corpus, servers, studio
from tests.hostile.studio import HostileStudio
from tests.serverless.conftest import Log

# What no reply may hold: traces, objects' addresses in memory, this machine's paths, secrets plain and coded.
LEAKS = re.compile(
    "|".join(
        (
            r"Traceback \(most recent",
            r'File "',
            r" object at 0x",
            r"site-packages",
            re.escape(str(ROOT)),
            re.escape(os.path.expanduser("~")) + "/",
            r"root:x:0:0",
            *map(re.escape, (corpus.PASSWORD, corpus.TOKEN, corpus.LOGIN.removeprefix("Basic "))),
        )
    )
)
SECRET = re.compile("|".join(map(re.escape, (corpus.PASSWORD, corpus.TOKEN, corpus.LOGIN.removeprefix("Basic ")))))


def environment(studio, folder):
    """The settings of a backend beside a studio."""
    return {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": corpus.TOKEN,
        "BASIC_AUTH_USER": corpus.USER,
        "BASIC_AUTH_PASS": corpus.PASSWORD,
        "ICMFORMER_CACHE_DIR": str(folder),
        "ICMFORMER_MAX_IMAGE_MB": "4",
        "ICMFORMER_MAX_BODY_MB": "8",
        "ICMFORMER_FETCH_SECONDS": "3",
        "ICMFORMER_DEVICE": "cpu",
    }


@pytest.fixture(scope="session")
def hostile_studio():
    studio = HostileStudio()
    yield studio
    studio.shutdown()
    studio.server_close()


@pytest.fixture(scope="session")
def make_app(hostile_studio, tmp_path_factory):
    """Makes the backend's application; options are variables."""

    def make(**options):
        given = environment(hostile_studio, tmp_path_factory.mktemp("cache")) | options
        with mock.patch.dict(os.environ, given):
            own = BackendSettings.from_environment()
            return create_app(Backend.from_settings(own), own)

    return make


@pytest.fixture(scope="session")
def app(make_app):
    return make_app()


@pytest.fixture(scope="session")
def context():
    """A worker of the function."""
    context = nuclio_sdk.Context(logger=Log(), worker_id=0)
    with mock.patch.dict(os.environ, {"ICMFORMER_DEVICE": "cpu"}):
        context.user_data.interactor = load(FunctionSettings.from_environment())
    return context


def ask_function(context, content, headers=(), method="POST", path="/"):
    """Status and body of the function's reply to bytes, parsed as Nuclio's wrapper parses them."""
    message = {
        "body": content,
        "content_type": dict(headers).get("Content-Type", ""),
        "trigger": {"kind": "http", "name": "test"},
        "headers": dict(headers),
        "id": uuid.uuid4().hex,
        "method": method,
        "path": path,
        "timestamp": int(time.time()),
        **dict.fromkeys(("url", "type", "type_version", "version"), ""),
        **dict.fromkeys(("size", "shard_id", "num_shards"), 0),
        "fields": {},
    }
    event = nuclio_sdk.Event.deserialize(message, kind=EventDeserializerKinds.msgpack)
    reply = main.handler(context, event)
    assert isinstance(reply, nuclio_sdk.Response)
    return reply.status_code, reply.body


def is_told_well(text, kind=None):
    """Whether an error is one line of JSON with `error` and `kind`, and gives nothing away."""
    reply = json.loads(text)
    assert isinstance(reply["error"], str)
    assert isinstance(reply["kind"], str)
    assert "\n" not in text.strip()
    assert len(text) < 4000
    assert not LEAKS.search(text), text
    return kind is None or reply["kind"] == kind


@pytest.fixture(scope="session")
def running(hostile_studio, tmp_path_factory):
    """Both real servers, started at once, each with a good request, its right answer and the server's processes."""
    folder = tmp_path_factory.mktemp("servers")
    both = {
        "function": (servers.function(folder), json.dumps(corpus.function_body()).encode()),
        "backend": (servers.backend(folder, environment(hostile_studio, folder)), studio.good_request()),
    }
    try:
        for server, _ in both.values():
            server.process.start()
        for server, _ in both.values():
            server.wait()
        yield {
            name: (server, good, servers.shapes(server.post(good)[2]), server.pids)
            for name, (server, good) in both.items()
        }
    finally:
        for server, _ in both.values():
            server.stop()


def check_it_goes_on(running, target):
    """The processes of a server are those it began with, and a good request gets its right answer."""
    server, good, right, pids = running[target]
    status, _, text = server.post(good)
    assert status == 200
    assert servers.shapes(text) == right
    assert server.pids == pids
