"""How long the chaos tests go on: `--cycles N`; `make chaos` takes the long way."""

import pytest

SHORT = 24


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cycles", type=int, default=SHORT, help="kills in the kill matrix")


@pytest.fixture(scope="session")
def cycles(request: pytest.FixtureRequest) -> int:
    """How many kills there shall be in the kill matrix."""
    return int(request.config.getoption("--cycles", SHORT))


@pytest.fixture(scope="session")
def is_long(cycles: int) -> bool:
    """Whether the figures of `make chaos` shall be reached."""
    return cycles > SHORT
