"""The servers that images come from, and the names that lead to them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

Talk = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]
IMAGE_ADDRESS = "127.0.0.2"  # what the tests' guard takes for public


def http_answer(
    body: bytes, status: str = "200 OK", kind: str = "image/png", length: int | None = None
) -> bytes:
    """Return a whole answer; `length` may lie."""
    length = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


class ImageServer:
    """Answers every request with `answer`, or lets `talk` write; keeps count."""

    def __init__(self) -> None:
        self.answer = b""
        self.talk: Talk | None = None
        self.closes = True
        """Whether the connection ends with the answer."""
        self.heads: list[bytes] = []
        self.num_calls = 0
        self.port = 0
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @asynccontextmanager
    async def listen(self, address: str, port: int = 0) -> AsyncIterator["ImageServer"]:
        """Serve on a port of an address, a free one if none is named."""
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
            pass  # the other side has seen enough
        finally:
            writer.close()


class Names(AbstractResolver):
    """Answers with what a test put into `answers`; each list is used up but for its last."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[str, int]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the next address of a name."""
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
        """There is nothing to close: each fetch uses the same names."""
