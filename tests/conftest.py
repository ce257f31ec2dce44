"""What all tests share."""

import signal
from collections.abc import Iterator

import pytest

from tests.object_store import ObjectServer, Site, object_site
from tests.session_guard import start_guard


def pytest_configure() -> None:
    start_guard()
    # A test run in the background of a shell inherits that SIGINT is ignored, and so would the
    # programs under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


@pytest.fixture
def site(object_server: ObjectServer) -> Iterator[Site]:
    with object_site(object_server) as site:
        yield site
