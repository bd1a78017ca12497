"""A CVAT that is not one, and how it is reached."""

import pytest

from icmformer.fetching.cvat import Cvat
from tests.cvat.standin import TOKEN, StandIn


@pytest.fixture
def serve():
    """Starts a stand-in with tasks."""
    started = []

    def start(*tasks):
        started.append(StandIn(*tasks))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def reach():
    """CVAT at a stand-in, hasty between tries."""

    def client(server, token=TOKEN, limit=1 << 20, **more):
        return Cvat(server.url, token, limit, **{"seconds": 5.0, "pauses": (0.01, 0.01), **more})

    return client
