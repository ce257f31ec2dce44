"""What all tests share."""

import signal
from collections.abc import Iterator

import pytest

from tests.object_store import ObjectServer, Site, object_site


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs under test.

    A suite that runs in the background of a shell inherits that it is ignored, and hands it on.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


@pytest.fixture
def site(object_server: ObjectServer) -> Iterator[Site]:
    with object_site(object_server) as site:
        yield site
