"""What all tests share."""

import gc
import signal
from collections.abc import Iterator

import pytest

from tests.object_store import ObjectServer, Site, object_site
from tests.session_guard import start_guard

gc.disable()  # until all is imported: see `broker.process.child.importing`


def pytest_configure() -> None:
    start_guard()
    # A test run in the background of a shell inherits that SIGINT is ignored, and so would the
    # programs under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


@pytest.fixture
def site(object_server: ObjectServer) -> Iterator[Site]:
    with object_site(object_server) as site:
        yield site
