"""What all tests share."""

import signal


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs under test.

    A suite that runs in the background of a shell inherits that it is ignored, and hands it on.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
