"""Decodes a long `data:` URL chunk by chunk, so that it is never held in memory."""

import binascii
import re

from broker.wire.errors import ErrorCode
from http_front.errors import FrontError
from http_front.images.spool import Spool

_HEAD = re.compile(rb"data:(?:image/[a-z+.-]+)?;base64,", re.IGNORECASE)


class DataUrlDecoder:
    """Writes the image of a data URL to a spool.

    Args:
        field: The request field to name in errors.
        spool: Receives the image.
    """

    def __init__(self, field: str, spool: Spool) -> None:
        self._field = field
        self._spool = spool
        self._rest = b""
        self._is_padded = False

    @staticmethod
    def head_bytes(start: bytes) -> int:
        """Return the length of a data URL up to its base64 text; 0 if it is not a data URL."""
        match = _HEAD.match(start)
        return match.end() if match else 0

    def write(self, chunk: bytes) -> None:
        """Decode the next chunk of base64 text.

        Raises:
            FrontError: If the text is not valid base64, or the image becomes too large.
        """
        text = self._rest + chunk
        num_whole = len(text) - len(text) % 4
        self._rest = text[num_whole:]
        if not num_whole:
            return
        if self._is_padded:
            raise self._invalid()
        self._is_padded = text[:num_whole].endswith(b"=")
        try:
            self._spool.write(binascii.a2b_base64(text[:num_whole], strict_mode=True))
        except binascii.Error as error:
            raise self._invalid() from error

    def finish(self) -> None:
        """Check that the base64 text is complete.

        Raises:
            FrontError: If it is not, or if it is empty.
        """
        if self._rest or not self._spool.num_bytes:
            raise self._invalid()

    def _invalid(self) -> FrontError:
        return FrontError(
            ErrorCode.IMAGE_URL_FORBIDDEN,
            f"{self._field} is a data URL with invalid base64",
            self._field,
        )
