"""The corpus against the two real servers: a sample of it, and the whole in the slow group."""

import pytest

from tests.hostile import corpus
from tests.hostile.conftest import LEAKS, check_it_goes_on, is_told_well

SAMPLED = 20  # every so many


def numbered(target):
    """The numbers of a target's entries by name; those beyond the sample are slow."""
    return [
        pytest.param(target, number, id=f"{target}: {entry.name}", marks=[pytest.mark.slow] if number % SAMPLED else [])
        for number, entry in enumerate(corpus.over_http(target))
    ]


@pytest.mark.parametrize(("target", "number"), [*numbered(corpus.FUNCTION), *numbered(corpus.BACKEND)])
def test_it_is_refused_as_in_process_and_the_server_goes_on(running, hostile_studio, target, number):
    entry = corpus.over_http(target)[number]
    content = entry.sent(hostile_studio.url)
    status, headers, text = running[target][0].ask(entry.method, entry.path, content, dict(entry.headers))
    assert status in entry.right, text[:500]
    shown = text.decode("utf-8", "replace")
    assert not LEAKS.search(shown), shown
    if status != 200 and headers.get("Content-Type", "").startswith("application/json"):
        assert is_told_well(shown)
    check_it_goes_on(running, target)
