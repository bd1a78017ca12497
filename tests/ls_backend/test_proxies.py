"""Which requests go through a proxy: seen by a proxy that notes what it is asked, and passes it on."""

import base64
import contextlib
import http.client
import select
import socket
import socketserver
import ssl
import threading

import numpy as np
import pytest
from skimage import data

from icmformer.fetching.proxies import Proxies
from icmformer.serving.errors import FetchError, RefusedHostError
from tests.conftest import ROOT
from tests.ls_backend.conftest import LEGACY, picture

CAT = "/data/upload/1/cat.png"
CERTIFICATE = ROOT / "tests" / "ls_backend" / "photos.example.pem"  # signed by itself, with its key


class Proxy(socketserver.ThreadingTCPServer):
    """Takes plain requests and CONNECT, whatever the host, to one port of this machine."""

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), _Passing)
        self.port, self.login, self.asked = port, None, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Passing(socketserver.StreamRequestHandler):
    def handle(self):
        proxy = self.server
        method, target, _ = self.rfile.readline().decode().split(" ", 2)
        headers = http.client.parse_headers(self.rfile)
        proxy.asked.append((method, target, headers["Authorization"]))
        if proxy.login and headers["Proxy-Authorization"] != f"Basic {base64.b64encode(proxy.login).decode()}":
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif method == "CONNECT":
            self.tunnel()
        else:
            onward = http.client.HTTPConnection("127.0.0.1", proxy.port)
            with contextlib.closing(onward):
                onward.request(method, "/" + target.split("/", 3)[3], headers={"Host": headers["Host"]})
                reply = onward.getresponse()
                content = reply.read()
            head = b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n" % (reply.status, len(content))
            self.wfile.write(head + content)

    def tunnel(self):
        self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.server.port)) as there:
            pairs = {self.connection: there, there: self.connection}
            while True:
                for ready in select.select([*pairs], [], [])[0]:
                    piece = ready.recv(1 << 16)
                    if not piece:
                        return
                    pairs[ready].sendall(piece)


@contextlib.contextmanager
def serving(server):
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(studio):
    with serving(Proxy(studio.server_address[1])) as server:
        yield server


@pytest.fixture
def public(monkeypatch):
    """Names that end in `.example` are at a public address that nobody answers at; the others as they are."""
    look_up = socket.getaddrinfo

    def found(host, port, *args, **kwargs):
        if host == "nowhere.example":
            raise socket.gaierror(-2, "Name or service not known")
        if str(host).endswith(".example"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]
        return look_up(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", found)


def through(url):
    return Proxies(http=url, https=url)


def test_a_public_host_is_asked_through_the_proxy(make_images, proxy, public):
    images = make_images(token=LEGACY, allowed=("*",), proxies=through(proxy.url))
    image = images.load("http://photos.example/bucket/cat.png", "7")
    np.testing.assert_array_equal(image.pixels, data.chelsea())
    assert proxy.asked == [("GET", "http://photos.example/bucket/cat.png", None)]


def test_a_proxy_is_not_shown_the_token_for_another_application(make_images, proxy, public):
    """The client would resolve the path itself on the way."""
    images = make_images(token=LEGACY, url="http://label.example/ls", proxies=through(proxy.url), allowed=("*",))
    for way in ("a%2fb/../../", "../", "%2e%2e/"):
        with pytest.raises(FetchError):
            images.load(f"http://label.example/ls/{way}other/x.png", "7")
    assert len(proxy.asked) == 3
    assert {token for _, _, token in proxy.asked} == {None}
    with pytest.raises(FetchError):
        images.load("http://label.example/ls/other/x.png", "7")
    assert proxy.asked[-1][2] == f"Token {LEGACY}"


def test_a_name_that_only_the_proxy_knows(make_images, proxy, public):
    make_images(allowed=("*",), proxies=through(proxy.url)).load("http://nowhere.example/bucket/cat.png", "7")
    assert [target for _, target, _ in proxy.asked] == ["http://nowhere.example/bucket/cat.png"]
    with pytest.raises(FetchError, match="does not resolve"):
        make_images(allowed=("*",)).load("http://nowhere.example/x.png", "7")


def test_private_addresses_never_go_to_the_proxy(make_images, studio, proxy):
    """Neither Label Studio's nor those of hosts that are let in by name; what is refused is not asked for at all."""
    make_images(token=LEGACY, proxies=through(proxy.url)).load(CAT, "7")
    make_images(url="", allowed=("localhost",), files=0, proxies=through(proxy.url)).load(studio.url + CAT, "7")
    for address in ("http://10.0.0.1/x.png", "http://2130706433/x.png", "http://127.0.0.1.:1/x.png"):
        with pytest.raises((RefusedHostError, FetchError)):
            make_images(url="", allowed=("*",), proxies=through(proxy.url)).load(address, "7")
    assert proxy.asked == []


def test_label_studios_token_is_not_left_to_a_proxy_where_its_name_does_not_resolve(make_images, proxy, public):
    with pytest.raises(FetchError, match="does not resolve"):
        make_images(token=LEGACY, url="http://nowhere.example", proxies=through(proxy.url)).load(CAT, "7")
    assert proxy.asked == []


@pytest.mark.parametrize("bypass", ["*", "photos.example", ".example", "other.org, example"])
def test_no_proxy_is_honoured(make_images, proxy, public, bypass, monkeypatch):
    reached = []
    monkeypatch.setattr(socket, "create_connection", lambda address, *_: reached.append(address) or 1 / 0)
    images = make_images(allowed=("*",), proxies=Proxies(proxy.url, proxy.url, bypass))
    with pytest.raises(ZeroDivisionError):
        images.load("http://photos.example/bucket/cat.png", "7")
    assert reached == [("93.184.216.34", 80)]


def test_a_proxy_that_asks_for_a_login(make_images, proxy, public):
    proxy.login = b"me:pass word"
    right = proxy.url.replace("http://", "http://me:pass%20word@")
    make_images(allowed=("*",), proxies=through(right)).load("http://photos.example/bucket/cat.png", "7")
    wrong = make_images(allowed=("*",), proxies=through(proxy.url.replace("http://", "http://me:secret@")))
    with pytest.raises(FetchError, match="407") as error:
        wrong.load("http://photos.example/bucket/cup.png", "7")
    assert "secret" not in str(error.value)


class _Picture(socketserver.StreamRequestHandler):
    def handle(self):
        with contextlib.suppress(OSError):
            if self.rfile.readline():
                http.client.parse_headers(self.rfile)
                content = picture("chelsea")
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)


class _Secure(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def finish_request(self, request, client_address):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        with contextlib.suppress(OSError):
            super().finish_request(context.wrap_socket(request, server_side=True), client_address)


@pytest.mark.parametrize("way", ["straight", "proxy"])
def test_https_is_end_to_end(make_images, proxy, public, monkeypatch, way):
    """The proxy sees a host and a port, and no more; the certificate must be the host's, and known."""
    with serving(_Secure(("127.0.0.1", 0), _Picture)) as server:
        proxy.port = server.server_address[1]
        if way == "straight":
            connect = socket.create_connection
            monkeypatch.setattr(socket, "create_connection", lambda _, *a: connect(server.server_address, *a))
        images = make_images(allowed=("*",), proxies=through(proxy.url if way == "proxy" else ""), files=0)
        with pytest.raises(FetchError, match="certificate"):
            images.load("https://photos.example/cat.png", "7")
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        np.testing.assert_array_equal(images.load("https://photos.example/cat.png", "7").pixels, data.chelsea())
        with pytest.raises(FetchError, match="certificate"):
            images.load("https://other.example/cat.png", "7")
    tunnels = {("CONNECT", "photos.example:443", None), ("CONNECT", "other.example:443", None)}
    assert {*proxy.asked} == (tunnels if way == "proxy" else set())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Proxies()),
        ({"http_proxy": "proxy:3128"}, Proxies(http="http://proxy:3128")),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "a,b"}, Proxies(https="http://proxy:3128", bypass="a,b")),
        ({"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:1"}, Proxies(http="http://a:1")),
        ({"all_proxy": "http://a:1", "https_proxy": "http://b:1"}, Proxies(http="http://a:1", https="http://b:1")),
    ],
)
def test_what_the_environment_says(environment, expected):
    assert Proxies.from_environment(environment) == expected


@pytest.mark.parametrize("value", ["socks5://me:secret@proxy:1080", "http://", "http://proxy:port", "http://a b"])
def test_a_proxy_that_is_none_holds_up_only_who_needs_it(make_images, studio, public, value):
    """Other programs may know it; here it is told without its password."""
    proxies = Proxies.from_environment({"all_proxy": value})
    images = make_images(allowed=("*",), proxies=proxies)
    np.testing.assert_array_equal(images.load(CAT, "7").pixels, data.chelsea())
    with pytest.raises(FetchError, match="http_proxy, or all_proxy, must be the address of an http proxy") as error:
        images.load("http://photos.example/x.png", "7")
    assert "secret" not in str(error.value)
    assert not Proxies.from_environment({"all_proxy": value, "http_proxy": "proxy:3128"}).fault("http")
