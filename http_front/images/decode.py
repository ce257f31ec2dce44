"""Decodes images in child processes with resource limits, and stores the pixels."""

import asyncio
import contextlib
import logging
import os
import secrets
from pathlib import Path
from typing import NamedTuple

import msgspec

from broker.process.import_path import python
from broker.store.store import INPUTS, Move
from broker.wire.errors import ErrorCode
from http_front.access.fair_slots import FairSlots
from http_front.errors import FrontError
from http_front.files.stored_files import StoredFiles

logger = logging.getLogger(__name__)

NUM_CHILDREN = 4
WALL_LIMIT_S = 15.0


class DecodeImage(msgspec.Struct, frozen=True, kw_only=True):
    """Sent to the child: decode the image in `source` and write its pixels to `target`."""

    source: str
    target: str


class ImageDecoded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The pixels are complete and on disk."""

    sha256: str
    width_px: int
    height_px: int


class ImageRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The image cannot be used. The reason is our own text, never the decoder's."""

    reason: str


class NoSpaceLeft(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The pixels do not fit on the disk."""


class StoredImage(NamedTuple):
    """A decoded image in the store: upright, and scaled down if it was large."""

    name: str
    width_px: int
    height_px: int


Outcome = ImageDecoded | ImageRefused | NoSpaceLeft


class ImageDecoder:
    """Turns untrusted images into stored WebP files, named by the SHA-256 of their pixels.

    Args:
        files: Stores the WebP files.
        wall_limit_s: Time limit for one image.
    """

    def __init__(self, files: StoredFiles, *, wall_limit_s: float = WALL_LIMIT_S) -> None:
        self._files = files
        self._partial_dir = files.store.partial(INPUTS)
        self._slots = FairSlots(NUM_CHILDREN)
        # The last one used is the next one used: most fronts need no more than one.
        self._idle = [_Child(wall_limit_s) for _ in range(NUM_CHILDREN)]

    async def store(
        self, source: Path, owner: str | None = None, field: str = "image"
    ) -> StoredImage:
        """Decode and store the image in a file.

        Args:
            source: The file.
            owner: Waits for images of the same owner, and takes turns with others.
            field: The request field to name in errors.

        Raises:
            FrontError: If the image cannot be used, the disk is full, or the store cannot be
                reached.
        """
        target = self._partial_dir / f"{secrets.token_hex(16)}.webp"
        try:
            outcome = await self._decode(DecodeImage(source=str(source), target=str(target)), owner)
            match outcome:
                case ImageDecoded():
                    name = f"{outcome.sha256}.webp"
                    moves = [Move(target, f"{INPUTS}/{name}", is_synced=True)]
                    await self._files.call(lambda: self._files.store.put(moves))
                    return StoredImage(name, outcome.width_px, outcome.height_px)
                case ImageRefused(reason=reason):
                    raise FrontError(ErrorCode.IMAGE_INVALID, reason, field)
                case NoSpaceLeft():
                    raise FrontError(
                        ErrorCode.STORAGE_FULL,
                        "the server's disk is full or read-only; try again later",
                        retry_after_s=60,
                    )
        finally:
            target.unlink(missing_ok=True)

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().stop()

    async def _decode(self, command: DecodeImage, owner: str | None) -> Outcome:
        async with self._slots.slot(owner):
            child = self._idle.pop()
            try:
                return await child.decode(command)
            finally:
                self._idle.append(child)


class _Child:
    """One child process, started on first use and again after it has died."""

    def __init__(self, wall_limit_s: float) -> None:
        self._wall_limit_s = wall_limit_s
        self._process: asyncio.subprocess.Process | None = None
        self._outcomes = msgspec.json.Decoder(Outcome)

    async def decode(self, command: DecodeImage) -> Outcome:
        """Have the child decode an image. If the child dies or hangs, the image is refused."""
        has_outcome = False
        try:
            async with asyncio.timeout(self._wall_limit_s):
                line = await self._exchange(msgspec.json.encode(command) + b"\n")
            outcome: Outcome = self._outcomes.decode(line)
            has_outcome = True
            return outcome
        except (TimeoutError, ConnectionError, msgspec.DecodeError):
            logger.warning(
                "image refused: its decoder died or took more than %g s", self._wall_limit_s
            )
            return ImageRefused(reason="the image cannot be decoded")
        finally:
            if not has_outcome:  # the next image gets a new child
                await self.stop()

    async def stop(self) -> None:
        """Kill the child process; it has no state to save."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _exchange(self, line: bytes) -> bytes:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *python("http_front.images.decode_worker", str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        await self._process.stdin.drain()
        return await self._process.stdout.readline()
