"""`--cycles N` sets how long the chaos tests run; `make chaos` sets a large number."""

import pytest

SHORT = 24


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cycles", type=int, default=SHORT, help="kills in the kill matrix")


@pytest.fixture(scope="session")
def cycles(request: pytest.FixtureRequest) -> int:
    """Number of kills in the kill matrix."""
    return int(request.config.getoption("--cycles", SHORT))


@pytest.fixture(scope="session")
def is_long(cycles: int) -> bool:
    """Whether to repeat as often as `make chaos` does."""
    return cycles > SHORT
