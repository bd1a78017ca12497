"""Addresses: whose they are, which are private, and how they are shown."""

import pytest

from icmformer.fetching import addresses
from icmformer.fetching.addresses import Origin, Site
from icmformer.serving.errors import RequestError


@pytest.mark.parametrize(
    "address",
    ["64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "224.0.0.1", "ff02::1"],
)
def test_private_addresses_in_disguise(address):
    assert not addresses._public(address)
    assert addresses._public("2606:4700:4700::1111")


def test_addresses_are_shown_without_secrets():
    assert addresses.shown("https://bob:hunter2@shelf.example/x.png?X-Signature=abc") == "https://shelf.example/x.png"
    assert "\n" not in addresses.shown("http://a/\nb")


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


@pytest.mark.parametrize(
    ("address", "held"),
    [
        ("http://a.example/studio/x", True),
        ("http://a.example/studio", True),
        ("http://a.example/studio?x=/../other", True),
        ("http://a.example/studio/data/../data/x", False),  # it comes back, but not by every reading
        ("http://a.example/studio//data//x", True),
        ("http://a.example/studio/%2e%2e/studio/x", False),
        ("http://a.example/studio/\\..\\..\\other", False),
        ("http://a.example/studio/a%2fb/../../other", False),
        ("http://a.example/studio/a%5Cb/../../other", False),
        ("http://a.example/studio/a\\b/../../other", False),
        ("http://a.example/studio/a%252fb/../../other", False),
        ("http://a.example/studio/a..b/..c/x", True),
        ("http://a.example/studio/" + "%" + "25" * 300 + "2e%2e/", False),
        ("http://a.example/Studio/x", False),
        ("http://a.example:81/studio/x", False),
    ],
)
def test_what_is_below_a_site(address, held):
    assert Site.of("http://a.example/studio/").holds(address) is held
    assert Site.of("http://a.example").holds(address) is (":81" not in address)


@pytest.mark.parametrize(
    "address", ["http://a.example/my%20ls", "http://a.example/ls;v=1", "http://a.example/\u6a19/x"]
)
def test_a_sub_path_holds_what_is_below_it_however_it_is_written(address):
    assert Site.of(address + "/").holds(address + "/data/upload/1/x.png")


@pytest.mark.parametrize(
    "address",
    [
        "http://a.example/a/../ls",
        "http://a.example//ls",
        "http://a.example/ls?x=1",
        "http://a.example/ls#x",
        "ftp://a/",
    ],
)
def test_an_address_that_reads_in_several_ways_is_no_site(address):
    with pytest.raises(RequestError):
        Site.of(address)


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("https://label.example.org/data/upload/1/x.png", "https://label.example.org"),
        ("https://label.example.org:8443/ls/a/data/local-files/?d=x", "https://label.example.org:8443/ls/a"),
        ("http://a/ls/tasks/7/presign/?fileuri=x", "http://a/ls"),
    ],
)
def test_the_label_studio_that_a_file_would_belong_to(address, site):
    assert addresses.label_studio_of(address) == site
    assert Site.of(site).holds(address)
