"""A local server that speaks S3, and the line to it, which a test may have fail in every way."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Literal, Self

from tests.free_port import free_port

SECRET = "the-secret-of-the-store"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "the-id-of-the-key",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
}
START_LIMIT_S = 60.0
_READ_BYTES = 1 << 16
CUT_BYTES = 1 << 20
"""Of an upload, which pass before it is cut."""

Fault = Literal["none", "refuses", "unavailable", "silent", "cut"]
"""`refuses`: nobody listens; `unavailable`: 503; `silent`: no answer ever comes; `cut`: the
connection breaks in the middle of a large upload."""


class ObjectServer:
    """A process with one bucket, in memory."""

    def __init__(self) -> None:
        self.port = free_port()
        self.bucket = "videos"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        deadline_s = time.monotonic() + START_LIMIT_S
        while True:
            try:
                self.ask("PUT", f"/{self.bucket}")
            except urllib.error.URLError:
                assert time.monotonic() < deadline_s, "the S3 server does not start"
                time.sleep(0.1)  # there is no event to await
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, method: str, path: str) -> str:
        """Send a request without a signature, which this server asks of nobody."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request) as response:
            answer: bytes = response.read()
        return answer.decode()


class SocketReader:
    """Passes bytes on between clients and the server, or does not.

    Args:
        server_port: Where the server listens.
    """

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self.fault: Fault = "none"
        self._server_port = server_port
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def fail(self, fault: Fault) -> None:
        """Begin to fail; connections that are open end at once."""
        self._close()
        self.fault = fault
        if fault != "refuses":
            self._listen()

    def mend(self) -> None:
        """Pass everything on again."""
        self.fail("none")

    def _listen(self) -> None:
        listener = self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()

    def _close(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
            ends, self._open = self._open, set()
        for end in (*([listener] if listener else []), *ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            if self._listener is None:
                client.close()
                return
            self._open.add(client)
        with contextlib.suppress(OSError):
            if self.fault == "unavailable":
                client.recv(_READ_BYTES)
                client.sendall(
                    b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                self._end(client)
            elif self.fault != "silent":
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server_port))
        with self._lock:
            self._open.add(server)
        back = threading.Thread(target=self._pass_on, args=[server, client], daemon=True)
        back.start()
        limit = CUT_BYTES if self.fault == "cut" else None
        self._pass_on(client, server, limit)

    def _pass_on(
        self, source: socket.socket, target: socket.socket, limit: int | None = None
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(_READ_BYTES):
                passed += len(data)
                if limit is not None and passed > limit:
                    target.sendall(data[: len(data) // 2])
                    break
                target.sendall(data)
        self._end(source, target)

    def _end(self, *ends: socket.socket) -> None:
        for end in ends:
            with self._lock:
                self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Site:
    """An object store for one test: a prefix of its own, and the line to it.

    Args:
        server: Shared by many tests.
        line: Of this test.
    """

    def __init__(self, server: ObjectServer, line: SocketReader) -> None:
        self.server, self.line = server, line
        self.prefix = secrets.token_hex(4)
        self.place = f"s3://{server.bucket}/{self.prefix}"

    def names(self) -> list[str]:
        """Return what is stored, as the server itself tells it."""
        path = f"/{self.server.bucket}?list-type=2&prefix={self.prefix}/"
        told = self.server.ask("GET", path)
        found = [part.partition("</Key>")[0] for part in told.split("<Key>")[1:]]
        return sorted(name.removeprefix(f"{self.prefix}/") for name in found)

    def num_uploads(self) -> int:
        """Return how many uploads have begun and neither ended nor been given up."""
        return self.server.ask("GET", f"/{self.server.bucket}?uploads").count("<Upload>")


@contextlib.contextmanager
def object_site(server: ObjectServer) -> Iterator[Site]:
    """Have this process, and those that it starts, reach the store by a line of its own."""
    with SocketReader(server.port) as line:
        told = CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"}
        before = {name: os.environ.get(name) for name in told}
        os.environ.update(told)
        try:
            yield Site(server, line)
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
