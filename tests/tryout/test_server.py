"""The page's server: who may ask, what is refused and how, and that no path comes from a request."""

import base64
import hashlib
import http.client
import json
import socket
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from icmformer.tryout.server import PageServer
from tests.conftest import ROOT
from tests.engines import engine

CLICK = {"clicks": [{"x": 300, "y": 200, "positive": True}]}
PAGE = ROOT / "icmformer/tryout/page.html"


class Tags(HTMLParser):
    """What a page names, and what is in its script and its style."""

    def __init__(self, text):
        super().__init__()
        self.inside, self.named, self.texts = None, [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        self.named += [
            (tag, name, value) for name, value in attrs if name in ("src", "href", "srcset", "action", "style")
        ]
        self.named += [(tag, name, value) for name, value in attrs if name.startswith("on")]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, text):
        if self.inside in ("script", "style"):
            self.texts[self.inside] = self.texts.get(self.inside, "") + text


def test_the_page_is_one_file_that_names_no_other():
    tags = Tags(PAGE.read_text())
    assert [(tag, name) for tag, name, value in tags.named if not value.startswith("data:")] == []
    assert set(tags.texts) == {"script", "style"}
    for word in ("import(", "eval(", "innerHTML", "url(", "@import", "document.write"):
        assert word not in "".join(tags.texts.values())


def test_the_page_runs_its_own_script_and_style_alone(served):
    status, headers, content = served.ask("GET")
    assert status == 200
    assert content == PAGE.read_bytes()
    texts = Tags(content.decode()).texts
    rules = dict(rule.strip().partition(" ")[::2] for rule in headers["Content-Security-Policy"].split(";"))
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(texts[tag].encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "Python" not in headers["Server"]


def test_the_state_names_what_serves_and_the_photos(served):
    state = served.json("GET", "state")
    assert state["photos"] == ["coffee.png", "chelsea.png", "broken.jpg"]
    assert state["model"].startswith("icmformer starter ")
    assert (state["profile"], state["device"]) == ("fast", "cpu")
    photo = {"number": 1, "name": "chelsea.png", "width": 451, "height": 300}
    assert served.json("GET", "photos/1") == photo


@pytest.mark.parametrize("root", ["/", "", "/token/", "//", "/..%2f/", "/%e9/", "http://127.0.0.1/"])
def test_who_does_not_know_the_address_gets_nothing(served, root):
    for method, path, body in (("GET", "", None), ("GET", "state", None), ("POST", "photos/0/mask", CLICK)):
        with_token = root + path if root else served.root[:-2] + "/" + path
        status, said = served.refusal(method, with_token, body, root="")
        assert status == 403
        assert served.root.strip("/") not in said


def test_an_invitation_leads_to_the_page_once_and_only_who_may_ask(own):
    server = own(engine("fast"))
    path = urlsplit(server.server.invitation()).path
    for wrong in (path + "x", path[:-1], "/once/", "/once", path + "/state"):
        assert server.refusal("GET", wrong, root="")[0] == 403
    assert server.refusal("GET", path, None, {"Host": "evil.example"}, root="")[0] == 403
    assert server.refusal("POST", path, CLICK, root="")[0] == 403
    status, headers, _ = server.ask("GET", path, root="")
    assert (status, headers["Location"]) == (303, server.root)
    assert server.refusal("GET", path, root="")[0] == 403
    lapsed = urlsplit(server.server.invitation(seconds=0)).path
    assert server.refusal("GET", lapsed, root="")[0] == 403


def test_the_address_without_its_slash_is_not_the_page(served):
    assert served.refusal("GET", served.root.rstrip("/"), root="")[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.1.5", "", "[", "a@b"]
)
def test_another_name_for_this_machine_is_refused(served, host):
    """A page whose own name was made to lead here (DNS rebinding) asks under that name."""
    assert served.refusal("GET", "state", None, {"Host": host})[0] == 403
    assert served.refusal("POST", "photos/0/mask", CLICK, {"Host": host})[0] == 403


def test_this_machines_own_names_are_known(served):
    for host in ("localhost", "LOCALHOST:99", "127.0.0.1", "127.0.0.2:80", "[::1]:80"):
        assert served.ask("GET", "state", None, {"Host": host})[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://{host}", "http://{host}.evil.example", "file://"]
)
def test_another_page_is_refused(served, origin):
    own = f"127.0.0.1:{served.port}"
    headers = {"Origin": origin.format(host=own)}
    assert served.refusal("GET", "state", None, headers)[0] == 403
    assert served.refusal("POST", "photos/0/mask", CLICK, headers)[0] == 403
    request = served.drop("x.png", b"x")
    assert served.refusal(*request[:3], {**request[3], **headers})[0] == 403
    assert served.ask("POST", "photos/0/mask", CLICK, {"Origin": f"http://{own}"})[0] == 200


def test_a_server_for_other_machines_knows_its_name_and_addresses_alone():
    with PageServer("0.0.0.0", 0) as open_server, PageServer("127.0.0.1", 0) as own_server:
        assert open_server.open_to_others
        assert not own_server.open_to_others
        assert open_server.address.startswith("http://127.0.0.1:")
        for host in ("localhost", "127.0.0.1", "192.168.1.5", "fe80::1", socket.gethostname().lower()):
            assert open_server.knows(host), host
        for host in ("evil.example", "", "127.0.0.1.evil.example"):
            assert not open_server.knows(host), host
        assert open_server.token != own_server.token
        assert len(own_server.token) >= 24


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "photos/0/mask", {"clicks": [{"x": 601, "y": 5}]}, 400, "outside the image of 600 x 400"),
        ("POST", "photos/0/mask", {"clicks": [{"x": -0.5, "y": 5}]}, 400, "outside the image"),
        ("POST", "photos/0/mask", {}, 400, "the prompt is empty"),
        ("POST", "photos/0/mask", {"clicks": [{"x": "1", "y": 5}]}, 400, "a coordinate is a number, got '1'"),
        ("POST", "photos/0/mask", {"clicks": [{"x": True, "y": 5}]}, 400, "a coordinate is a number"),
        ("POST", "photos/0/mask", {"clicks": [{"x": 1}]}, 400, "a coordinate is a number, got None"),
        ("POST", "photos/0/mask", {"clicks": [{"x": 1e999, "y": 5}]}, 400, "finite"),
        ("POST", "photos/0/mask", {"clicks": [{"x": 10**400, "y": 5}]}, 400, "finite"),
        ("POST", "photos/0/mask", {"clicks": [{"x": 1, "y": 5, "positive": "no"}]}, 400, "positive or not"),
        ("POST", "photos/0/mask", {"clicks": [[1, 2]]}, 400, "clicks are a list of objects"),
        ("POST", "photos/0/mask", {"clicks": [{"x": 1, "y": 2}] * 201}, 400, "201 clicks on one object"),
        ("POST", "photos/0/mask", {"box": [1, 2, 3]}, 400, "a box is a list of four numbers"),
        ("POST", "photos/0/mask", {"box": [1, 2, 1, 9]}, 400, "a box needs an area"),
        ("POST", "photos/0/mask", {"box": [700, 2, 800, 9]}, 400, "outside the image"),
        ("POST", "photos/0/polygons", {**CLICK, "max_points": 3}, 400, "max_points is a whole number, 4 or more"),
        ("POST", "photos/0/polygons", {**CLICK, "max_points": 9.5}, 400, "max_points is a whole number, 4 or more"),
        ("POST", "photos/2/mask", CLICK, 422, "broken.jpg: the image file ends early or is damaged"),
        ("GET", "photos/2", None, 422, "broken.jpg: the image file ends early or is damaged"),
        ("GET", "photos/2/view", None, 422, "broken.jpg"),
        ("GET", "photos/3", None, 404, "there is no photo number 3"),
        ("POST", "photos/999999/mask", CLICK, 404, "there is no photo number 999999"),
        ("GET", "photos/0/view?left=0&top=0&width=601&height=10", None, 400, "does not lie within the photo"),
        ("GET", "photos/0/view?left=0&top=0&width=0&height=10", None, 400, "does not lie within the photo"),
        ("GET", "photos/0/view?left=0", None, 400, "whole numbers"),
        ("GET", "photos/0/view?left=-1&top=0&width=5&height=5", None, 400, "whole numbers"),
        ("GET", "photos/0/view?" + "&".join(f"a{n}=1" for n in range(99)), None, 400, "too many fields"),
        ("GET", "photos/0/mask", None, 405, "POST"),
        ("POST", "state", CLICK, 405, "GET"),
        ("GET", "photos/-1", None, 404, "no such address"),
        ("GET", "photos/0/", None, 404, "no such address"),
        ("GET", "photos/9999999", None, 404, "no such address"),
        ("GET", "photos/%30", None, 404, "no such address"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(served, method, path, body, status, text):
    got, said = served.refusal(method, path, body)
    assert got == status
    assert text in said


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 500_000, b'{"clicks": [{"x": ' + b"9" * 9000 + b"}]}"]
)
def test_bodies_that_are_no_prompt_are_refused(served, body):
    headers = {"Content-Type": "application/json"}
    assert served.refusal("POST", "photos/0/mask", body, headers)[0] == 400


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "photos/..%2f..%2fetc%2fpasswd",
        "photos//etc/passwd",
        "page.html",
        "photos/coffee.png",
        "%2e%2e/x",
    ],
)
def test_no_path_of_a_request_is_opened(served, path):
    assert served.refusal("GET", path)[0] == 404


def raw(served, text, body=b""):
    """The reply to bytes as they are, until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", served.port), 20) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode("latin-1") + body)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode("latin-1")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Type: application/json\nContent-Length: 2000000000", 413),
        ("Content-Type: application/json\nContent-Length: 99999999999999999999", 411),
        ("Content-Type: application/json\nContent-Length: -5", 411),
        ("Content-Type: application/json\nContent-Length: 5, 5", 411),
        ("Content-Type: application/json", 411),
        ("Content-Type: application/json\nTransfer-Encoding: chunked", 411),
        ("Content-Type: application/json\nContent-Length: 100", 400),
        ("Content-Type: text/plain\nContent-Length: 2", 415),
        ("Content-Type: application/x-www-form-urlencoded\nContent-Length: 2", 415),
        ("Content-Length: 2", 415),
    ],
)
def test_lengths_and_types_of_bodies_are_checked(served, headers, status):
    host = f"Host: 127.0.0.1:{served.port}"
    reply = raw(served, f"POST {served.root}photos/0/mask HTTP/1.1\n{host}\n{headers}\n\n", b"{}")
    assert reply.startswith(f"HTTP/1.1 {status} ")
    assert "Connection: close" in reply
    assert reply.count("HTTP/1.1 ") == 1
    assert '{"error": ' in reply


def test_a_file_over_the_limit_is_refused_before_it_has_come(served):
    """And the reply is read by who goes on sending for a while."""
    host = f"127.0.0.1:{served.port}"
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.putrequest("POST", f"{served.root}photos?name=x.png")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(101 << 20))
    connection.endheaders()
    for _ in range(4):
        connection.send(bytes(1 << 20))
    reply = connection.getresponse()
    assert reply.status == 413
    assert "the limit is 100 MB" in json.loads(reply.read())["error"]
    connection.close()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "NONSENSE"])
def test_other_methods_are_refused(served, method):
    status, headers, content = served.ask(method)
    assert status == 501
    assert "text/html" not in headers["Content-Type"]
    assert b"Traceback" not in content


@pytest.mark.parametrize(
    "line",
    ["nonsense", "GET / HTTP/9.9", "GET", f"GET /{'a' * 70_000} HTTP/1.1", "GET /\xe9/ HTTP/1.1", "GET /x\0/ HTTP/1.1"],
)
def test_what_is_not_http_is_refused(served, line):
    reply = raw(served, f"{line}\n\n")
    assert "Traceback" not in reply
    assert "<" not in reply
    assert served.json("GET", "state")


def test_a_connection_goes_on_after_a_refusal(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    bad, good = json.dumps({"clicks": [{"x": 9999, "y": 1}]}), json.dumps(CLICK)
    for body, status in ((bad, 400), (good, 200), (bad, 400), (good, 200)):
        connection.request("POST", f"{served.root}photos/0/mask", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        assert reply.status == status
        reply.read()
    connection.close()
