"""Free ports for servers under test that cannot choose one themselves."""

import random
import socket
from contextlib import ExitStack, suppress


def free_port(count: int = 4) -> int:
    """Return the first of `count` consecutive free ports."""
    while True:
        # Below the range from which the system assigns ports to connections.
        first = random.randrange(10_000, 30_000)
        with suppress(OSError), ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
