"""`icmformer try` as a user starts and ends it."""

import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from icmformer.cli.main import main
from tests.conftest import TINY
from tests.tryout.running import Running


def ask(address, prompt=None):
    body = None if prompt is None else json.dumps(prompt).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(reply.read())


@pytest.fixture
def run():
    made = []

    def start(*words, **environment):
        made.append(Running(*words, **environment))
        return made[-1]

    yield start
    for each in made:
        each.process.kill()
        each.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_opens_the_browser_and_ends_in_the_middle_of_clicks(run, folder, tmp_path, number):
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $1 > {opened}.part && mv {opened}.part {opened}\n")
    browser.chmod(0o755)
    wanted = [] if number == signal.SIGINT else ["--no-browser"]
    options = ["--weights", TINY, "--profile", "exact", *wanted]
    tried = run(folder / "coffee.png", *options, BROWSER=f"{browser} %s")
    assert tried.line == f"serving {TINY} on {tried.address}; Ctrl-C stops it\n"
    assert urlsplit(tried.address).hostname == "127.0.0.1"
    state = ask(f"{tried.address}state")
    assert (state["photos"], state["profile"], state["weights"]) == (["coffee.png"], "exact", TINY)
    if not wanted:
        deadline = time.monotonic() + 30
        while not opened.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        given = opened.read_text().strip()  # all users of the machine can read it: it leads to the page once
        assert tried.address not in given
        with urllib.request.urlopen(given, timeout=60) as page:
            assert page.url == tried.address
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(given, timeout=60)

    outcome = []

    def click():
        clicks = [{"x": 10.0 + n, "y": 20} for n in range(20)]
        try:
            outcome.append(ask(f"{tried.address}photos/0/mask", {"clicks": clicks}))
        except OSError as error:  # where the end came before the request did
            outcome.append(error)

    clicking = threading.Thread(target=click)
    clicking.start()
    time.sleep(0.3)
    status, said = tried.stop(number)
    clicking.join(30)
    assert (status, said) == (0, "stopped\n")
    assert len(outcome) == 1  # a whole reply or none
    if wanted:
        assert not opened.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(tried.address).port), 5)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["missing.jpg"], "missing.jpg: there is no such file"),
        (["."], "there are no photos in ."),
        (["--weights", "nowhere"], "no weights 'nowhere'"),
        (["--device", "cuda:77"], "not there"),
        (["--port", "70000"], "--port must be a whole number from 0 to 65535"),
        (["--host", "256.1.1.1"], "256.1.1.1:0: "),
        (["--host", "a" * 70], "--host"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_two(tmp_path, monkeypatch, capsys, words, text):
    monkeypatch.chdir(tmp_path)
    assert main(["try", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert text in said
    assert said.count("\n") == 1


def test_a_port_in_use_is_found_before_the_network_loads(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["try", "--port", str(port), "--weights", "nowhere"]) == 2
    assert f"127.0.0.1:{port}: Address already in use; --port and --host name others" in capsys.readouterr().err


def test_an_address_for_other_machines_is_warned_of(run, folder):
    tried = run(folder / "coffee.png", "--weights", TINY, "--host", "0.0.0.0", "--no-browser")
    assert ask(f"{tried.address}state")["photos"] == ["coffee.png"]
    status, said = tried.stop()
    assert status == 0
    assert said.startswith("warning: whoever reaches port ")
