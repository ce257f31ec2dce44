"""Takes the images out of a long JSON body as it arrives, so that they are never held in memory."""

import re
import secrets
from collections.abc import Callable, Sequence

import msgspec

from broker.wire.errors import ErrorCode
from http_front.errors import FrontError
from http_front.images.data_url import MAX_HEAD_BYTES, DataUrlDecoder
from http_front.images.spool import Spool
from http_front.video.bounded_body import MAX_TEXT_BYTES
from http_front.video.field_check import decode_json

_IN_STRING = re.compile(rb'(?:[^"\\]+|\\.)*', re.DOTALL)
_LAST_KEY = re.compile(rb'"([A-Za-z0-9_]{1,60})"\s*:[\s\[{]*"\Z')
_LONGEST_ESCAPE = 6
_PIECE_BYTES = 1 << 13
"""Bytes that are read at a stretch: each string in them moves those that follow."""


class ImagesInJson:
    """Writes each string that is a data URL to a spool, and keeps the rest of the body.

    In the kept text the spool's `token` stands for the data URL.

    Args:
        spools: Receive the images in the order in which they come.
    """

    def __init__(self, spools: Sequence[Spool]) -> None:
        self._spools = list(spools)
        self._kept = bytearray()
        self._unread = b""
        self._step: Callable[[], bool] = self._outside
        self._decoder: DataUrlDecoder | None = None

    def write(self, chunk: bytes) -> None:
        """Read the next bytes of the body.

        Raises:
            FrontError: If an image is not valid base64 or too large, or the rest is too long.
        """
        for at in range(0, len(chunk), _PIECE_BYTES):
            self._unread += chunk[at : at + _PIECE_BYTES]
            while self._step():
                pass
            if len(self._kept) > MAX_TEXT_BYTES:
                raise _too_large()

    def finish(self) -> dict[str, object]:
        """Return the fields of the body.

        Raises:
            FrontError: If it is not a JSON object.
        """
        return decode_json(bytes(self._kept + self._unread))

    def _outside(self) -> bool:
        """Keep all up to the next string; return whether there is one."""
        before, quote, self._unread = self._unread.partition(b'"')
        self._kept += before + quote
        if quote:
            self._step = self._at_start
        return bool(quote)

    def _at_start(self) -> bool:
        """Decide what a string is that has begun; return whether that could be decided."""
        num_head = DataUrlDecoder.head_bytes(self._unread[:MAX_HEAD_BYTES])
        if num_head:
            self._begin_image()
            self._unread = self._unread[num_head:]
            return True
        if len(self._unread) < MAX_HEAD_BYTES and b'"' not in self._unread:
            return False
        self._step = self._in_text
        return True

    def _begin_image(self) -> None:
        if not self._spools:
            raise FrontError(ErrorCode.INVALID_BODY, "the body has more images than a job takes")
        spool = self._spools.pop(0)
        key = _LAST_KEY.search(self._kept[-100:])
        self._decoder = DataUrlDecoder(key[1].decode() if key else spool.field, spool)
        spool.token = f"data-url-{secrets.token_hex(16)}"
        self._kept += spool.token.encode()
        self._step = self._in_image

    def _in_text(self) -> bool:
        piece, ends = self._next_piece()
        self._kept += piece
        return self._end_string() if ends else False

    def _in_image(self) -> bool:
        piece, ends = self._next_piece()
        if b"\\" in piece:
            piece = _unescaped(piece)
        assert self._decoder is not None
        self._decoder.write(piece)
        if not ends:
            return False
        self._decoder.finish()
        return self._end_string()

    def _next_piece(self) -> tuple[bytes, bool]:
        """Take the present string's bytes that have arrived; return them and whether it ends."""
        match = _IN_STRING.match(self._unread)
        assert match is not None, "it also matches nothing"
        end = match.end()
        ends = self._unread[end : end + 1] == b'"'
        if not ends:  # the last escape may not be here whole
            last = self._unread.rfind(b"\\", max(0, end - _LONGEST_ESCAPE), end)
            end = end if last < 0 else last
        piece, self._unread = self._unread[:end], self._unread[end:]
        return piece, ends

    def _end_string(self) -> bool:
        self._kept += b'"'
        self._unread = self._unread[1:]
        self._step = self._outside
        return True


def _unescaped(piece: bytes) -> bytes:
    """Undo JSON's escapes: some encoders escape slashes, and plus signs by their numbers."""
    try:
        return msgspec.json.decode(b'"' + piece + b'"', type=str).encode()
    except (msgspec.DecodeError, UnicodeError) as error:
        raise FrontError(ErrorCode.INVALID_BODY, "the body is not valid JSON") from error


def _too_large() -> FrontError:
    return FrontError(
        ErrorCode.BODY_TOO_LARGE,
        f"the body has more than {MAX_TEXT_BYTES} bytes besides its images; send an image as a "
        "file in multipart/form-data, or in JSON as data:image/jpeg;base64,…",
    )
