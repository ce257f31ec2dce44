"""Ports for servers under test that must be told theirs."""

import random
import socket
from contextlib import ExitStack, suppress


def free_port(count: int = 4) -> int:
    """Return the first of so many ports in a row that nobody listens on."""
    while True:
        # Below those that the system gives to connections, which come and go.
        first = random.randrange(10_000, 30_000)
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
