"""The option `--examples N`; `make fuzz` uses many more than the default."""

import pytest

SHORT = 100


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, default=SHORT, help="inputs per operation or function")


@pytest.fixture(scope="session")
def num_examples(request: pytest.FixtureRequest) -> int:
    """Number of inputs per operation of the API and per function."""
    return int(request.config.getoption("--examples", SHORT))
