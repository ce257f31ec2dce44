"""The event loop of a process with thousands of sockets: timed calls and readable descriptors."""

import heapq
import selectors
import time
from collections.abc import Callable
from functools import partial
from itertools import count

import zmq

Act = Callable[[], object]


class Loop:
    """One thread, one heap of calls and one epoll; ZeroMQ's poll would walk over all sockets."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, self.context.get(zmq.SOCKET_LIMIT))
        self._due: list[tuple[float, int, Act]] = []
        self._order = count()
        self._selector = selectors.EpollSelector()
        self._stopping = False

    def after(self, delay_s: float, act: Act) -> None:
        """Call a function after a delay."""
        self._at(time.monotonic() + delay_s, act)

    def every(self, period_s: float, act: Act, first_s: float) -> None:
        """Call a function repeatedly, first after `first_s`, until it raises `Over`."""
        self._repeat_at(time.monotonic() + first_s, period_s, act)

    def watch(self, fd: int, act: Act) -> None:
        """Call a function whenever a descriptor is readable."""
        self._selector.register(fd, selectors.EVENT_READ, act)

    def unwatch(self, fd: int) -> None:
        self._selector.unregister(fd)

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        """Run until `stop` is called."""
        while not self._stopping:
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()
            wait_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 0.1
            for key, _ in self._selector.select(min(wait_s, 0.1)):
                key.data()

    def _repeat(self, due_s: float, period_s: float, act: Act) -> None:
        try:
            act()
        except Over:
            return
        self._repeat_at(due_s + period_s, period_s, act)

    def _repeat_at(self, due_s: float, period_s: float, act: Act) -> None:
        self._at(due_s, partial(self._repeat, due_s, period_s, act))

    def _at(self, due_s: float, act: Act) -> None:
        heapq.heappush(self._due, (due_s, next(self._order), act))


class Over(Exception):
    """Raised by a repeated call that must not be repeated again."""


class SocketReader:
    """Reads every message of a DEALER."""

    def __init__(
        self, loop: Loop, socket: "zmq.Socket[bytes]", take: Callable[[list[bytes]], None]
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._take = take
        self._fd = int(socket.get(zmq.FD))
        loop.watch(self._fd, self.read)

    def send(self, parts: list[bytes]) -> bool:
        """Send a message; return False if no broker is connected."""
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        # Sending may consume the event that a message has arrived.
        self.read()
        return True

    def read(self) -> None:
        """Read all messages that have arrived."""
        while not self._socket.closed and int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._take(self._socket.recv_multipart(zmq.NOBLOCK))

    def close(self) -> None:
        self._loop.unwatch(self._fd)
        self._socket.close(linger=0)
