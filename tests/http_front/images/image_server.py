"""Image servers, and a resolver for their host names."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

Talk = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]
IMAGE_ADDRESS = "127.0.0.2"  # the tests' guard treats it as public


def http_answer(
    body: bytes, status: str = "200 OK", kind: str = "image/png", length: int | None = None
) -> bytes:
    """Return a whole response; `length` may be wrong on purpose."""
    length = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


class ImageServer:
    """Sends `answer` to every request, or lets `talk` write; counts connections."""

    def __init__(self) -> None:
        self.answer = b""
        self.talk: Talk | None = None
        self.closes = True
        """Whether the connection is closed after the response."""
        self.heads: list[bytes] = []
        self.num_calls = 0
        self.port = 0
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @asynccontextmanager
    async def listen(self, address: str, port: int = 0) -> AsyncIterator["ImageServer"]:
        """Serve on an address; port 0 selects a free port."""
        server = await asyncio.start_server(self._serve, address, port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._open.values():
                writer.transport.abort()
            if self._open:
                await asyncio.wait(self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.num_calls += 1
        self._open[task] = writer
        task.add_done_callback(self._open.pop)
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if self.talk is not None:
                await self.talk(writer)
            else:
                writer.write(self.answer)
                await writer.drain()
            if not self.closes:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client closed the connection early
        finally:
            writer.close()


class Names(AbstractResolver):
    """Resolves names from `answers`. Each list is used in order; its last entry is repeated."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[str, int]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answers = self.answers.get(host)
        if not answers:
            raise OSError(f"no such name: {host}")
        address, port = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
        ]

    async def close(self) -> None:
        """Do nothing: every fetch uses the same resolver."""
