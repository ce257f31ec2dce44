"""Decode images in limited child processes, which stay warm, and store them."""

import asyncio
import contextlib
import logging
import os
import secrets
import sys
from pathlib import Path

import msgspec

from broker.store.store import INPUTS, Move
from broker.wire.protocol import ErrorCode
from http_front.errors import FrontError
from http_front.files.stored_files import StoredFiles

logger = logging.getLogger(__name__)

NUM_CHILDREN = 2
WALL_LIMIT_S = 15.0


class DecodeImage(msgspec.Struct, frozen=True, kw_only=True):
    """To the child: turn the image in one file into plain pixels in another."""

    source: str
    target: str


class ImageDecoded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The pixels are whole and on disk."""

    sha256: str


class ImageRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The image cannot be used; the reason is one of our own sentences, never the decoder's."""

    reason: str


class NoSpaceLeft(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The pixels do not fit on the disk."""


Outcome = ImageDecoded | ImageRefused | NoSpaceLeft


class ImageDecoder:
    """Turns images of strangers into files of pixels (PPM) named by their content.

    Args:
        files: Where the finished ones go.
        wall_limit_s: How long one image may take.
    """

    def __init__(self, files: StoredFiles, *, wall_limit_s: float = WALL_LIMIT_S) -> None:
        self._files = files
        self._partial_dir = files.store.partial(INPUTS)
        self._idle: asyncio.LifoQueue[_Child] = asyncio.LifoQueue()
        for _ in range(NUM_CHILDREN):
            self._idle.put_nowait(_Child(wall_limit_s))

    async def store(self, source: Path) -> str:
        """Return the name of the file that the image in a file has become.

        Raises:
            FrontError: If it is no image that can be used, the disk is full, or the store cannot
                be reached.
        """
        target = self._partial_dir / f"{secrets.token_hex(16)}.ppm"
        try:
            outcome = await self._decode(DecodeImage(source=str(source), target=str(target)))
            match outcome:
                case ImageDecoded(sha256=sha256):
                    name = f"{sha256}.ppm"
                    moves = [Move(target, f"{INPUTS}/{name}", is_synced=True)]
                    await self._files.call(lambda: self._files.store.put(moves))
                    return name
                case ImageRefused(reason=reason):
                    raise FrontError(ErrorCode.IMAGE_INVALID, reason, "image")
                case NoSpaceLeft():
                    raise FrontError(
                        ErrorCode.STORAGE_FULL, "no space is left for the image", retry_after_s=60
                    )
        finally:
            target.unlink(missing_ok=True)

    async def close(self) -> None:
        """End the children."""
        while not self._idle.empty():
            await self._idle.get_nowait().stop()

    async def _decode(self, order: DecodeImage) -> Outcome:
        child = await self._idle.get()
        try:
            return await child.decode(order)
        finally:
            self._idle.put_nowait(child)


class _Child:
    """One child process, started when first needed and after each loss."""

    def __init__(self, wall_limit_s: float) -> None:
        self._wall_limit_s = wall_limit_s
        self._process: asyncio.subprocess.Process | None = None
        self._outcomes = msgspec.json.Decoder(Outcome)

    async def decode(self, order: DecodeImage) -> Outcome:
        """Let the child decode; a child that dies or takes too long counts against the image."""
        answered = False
        try:
            async with asyncio.timeout(self._wall_limit_s):
                line = await self._exchange(msgspec.json.encode(order) + b"\n")
            outcome: Outcome = self._outcomes.decode(line)
            answered = True
            return outcome
        except (TimeoutError, ConnectionError, msgspec.DecodeError):
            logger.warning("an image ended its decoder or took more than %g s", self._wall_limit_s)
            return ImageRefused(reason="the image cannot be decoded")
        finally:
            if not answered:  # the next image gets a new child
                await self.stop()

    async def stop(self) -> None:
        """Kill the child; it holds nothing worth keeping."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _exchange(self, line: bytes) -> bytes:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "http_front.images.decode_worker", str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        await self._process.stdin.drain()
        return await self._process.stdout.readline()
