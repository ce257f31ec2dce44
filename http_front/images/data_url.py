"""A `data:` URL too long for the memory, decoded piece by piece."""

import binascii
import re

from broker.wire.protocol import ErrorCode
from http_front.errors import FrontError
from http_front.images.spool import Spool

_HEAD = re.compile(rb"data:(?:image/[a-z+.-]+)?;base64,", re.IGNORECASE)


class DataUrlDecoder:
    """Writes the image of a data URL to a spool.

    Args:
        field: Who is to blame if it is not valid.
        spool: Takes the image.
    """

    def __init__(self, field: str, spool: Spool) -> None:
        self._field = field
        self._spool = spool
        self._rest = b""
        self._is_padded = False

    @staticmethod
    def length_of_head(start: bytes) -> int:
        """Return how long the head is of the data URL that begins like this; 0 if it is none."""
        found = _HEAD.match(start)
        return found.end() if found else 0

    def write(self, chunk: bytes) -> None:
        """Decode the next piece.

        Raises:
            FrontError: If it is not base64, or the image becomes too large.
        """
        text = self._rest + chunk
        whole = len(text) - len(text) % 4
        self._rest = text[whole:]
        if not whole:
            return
        if self._is_padded:
            raise self._invalid()
        self._is_padded = text[:whole].endswith(b"=")
        try:
            self._spool.write(binascii.a2b_base64(text[:whole], strict_mode=True))
        except binascii.Error as error:
            raise self._invalid() from error

    def finish(self) -> None:
        """Say that all pieces have come.

        Raises:
            FrontError: If something is missing.
        """
        if self._rest or not self._spool.num_bytes:
            raise self._invalid()

    def _invalid(self) -> FrontError:
        return FrontError(
            ErrorCode.IMAGE_URL_FORBIDDEN,
            f"{self._field} is a data URL whose base64 is not valid",
            self._field,
        )
