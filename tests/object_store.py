"""A local S3 server, and a proxy in front of it that can fail in several ways."""

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
"""Bytes of an upload that pass before the proxy cuts it."""

Fault = Literal["none", "refuses", "unavailable", "silent", "cut"]
"""`refuses`: the port is closed; `unavailable`: answers 503; `silent`: never answers; `cut`: the
connection breaks in the middle of a large upload."""


class ObjectServer:
    """An S3 server process with one bucket, in memory."""

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
        """Send a request; this server needs no signature."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request) as response:
            answer: bytes = response.read()
        return answer.decode()


class FaultyProxy:
    """Forwards connections to the server, unless a test makes it fail."""

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
        """Start failing; open connections end at once."""
        self._close()
        self.fault = fault
        if fault != "refuses":
            self._listen()

    def recover(self) -> None:
        """Forward everything again."""
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
        back = threading.Thread(target=self._forward, args=[server, client], daemon=True)
        back.start()
        limit_bytes = CUT_BYTES if self.fault == "cut" else None
        self._forward(client, server, limit_bytes)

    def _forward(
        self, source: socket.socket, target: socket.socket, limit_bytes: int | None = None
    ) -> None:
        num_bytes = 0
        with contextlib.suppress(OSError):
            while data := source.recv(_READ_BYTES):
                num_bytes += len(data)
                if limit_bytes is not None and num_bytes > limit_bytes:
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
    """An object store for one test: a prefix and a proxy of its own, on a shared server."""

    def __init__(self, server: ObjectServer, proxy: FaultyProxy) -> None:
        self.server, self.proxy = server, proxy
        self.prefix = secrets.token_hex(4)
        self.place = f"s3://{server.bucket}/{self.prefix}"

    def names(self) -> list[str]:
        """Return the names of the stored objects, asked of the server directly."""
        path = f"/{self.server.bucket}?list-type=2&prefix={self.prefix}/"
        listing = self.server.ask("GET", path)
        names = [part.partition("</Key>")[0] for part in listing.split("<Key>")[1:]]
        return sorted(name.removeprefix(f"{self.prefix}/") for name in names)

    def num_uploads(self) -> int:
        """Return the number of multipart uploads in progress."""
        return self.server.ask("GET", f"/{self.server.bucket}?uploads").count("<Upload>")


@contextlib.contextmanager
def object_site(server: ObjectServer) -> Iterator[Site]:
    """Make this process, and those that it starts, reach the store through a new proxy."""
    with FaultyProxy(server.port) as proxy:
        variables = CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield Site(server, proxy)
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
