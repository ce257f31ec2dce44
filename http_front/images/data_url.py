"""Decodes a `data:` URL chunk by chunk, so that a long one is never held in memory."""

import binascii
import re

from broker.wire.errors import ErrorCode
from http_front.errors import FrontError
from http_front.images.spool import Spool

# The media type is not looked at: the content decides what the image is.
_HEAD = re.compile(rb"\s*data:[^,\"]{0,240};\s*base64\s*,", re.IGNORECASE)
MAX_HEAD_BYTES = 300
_PLAIN = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n"
_STARTS_OF_IMAGES = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "Qk0")
"""How the files that people send begin in base64: JPEG, PNG, WebP, GIF and BMP."""


class DataUrlDecoder:
    """Writes the image of a data URL to a spool.

    The base64 text may hold blanks, lack its padding, and use the alphabet of URLs.

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
        text = self._rest + chunk.translate(_PLAIN, _BLANKS)
        num_whole = len(text) - len(text) % 4
        self._rest = text[num_whole:]
        if not num_whole:
            return
        if self._is_padded:
            raise self._invalid()
        self._is_padded = text[:num_whole].endswith(b"=")
        self._decode(text[:num_whole])

    def finish(self) -> None:
        """Decode what is left, and check that the base64 text is complete.

        Raises:
            FrontError: If it is not, or if it is empty.
        """
        rest = self._rest.rstrip(b"=")
        if self._rest and (self._is_padded or len(rest) < 2):
            raise self._invalid()
        if rest:
            self._decode(rest + b"=" * (-len(rest) % 4))
        if not self._spool.num_bytes:
            raise self._invalid()

    def _decode(self, text: bytes) -> None:
        try:
            self._spool.write(binascii.a2b_base64(text, strict_mode=True))
        except binascii.Error as error:
            raise self._invalid() from error

    def _invalid(self) -> FrontError:
        return FrontError(
            ErrorCode.IMAGE_URL_FORBIDDEN,
            f"{self._field} is a data URL with invalid base64",
            self._field,
        )


def is_data_url(text: str) -> bool:
    """Whether the URL contains the image itself, so that no server is needed."""
    return DataUrlDecoder.head_bytes(text[:MAX_HEAD_BYTES].encode(errors="replace")) > 0


def decode_data_url(text: str, field: str, spool: Spool) -> None:
    """Write the image of a whole data URL to a spool.

    Raises:
        FrontError: If its base64 text is not valid, or the image is too large.
    """
    url = text.encode(errors="replace")
    decoder = DataUrlDecoder(field, spool)
    decoder.write(url[DataUrlDecoder.head_bytes(url) :])
    decoder.finish()


def looks_like_bare_base64(text: str) -> bool:
    """Whether text that is no URL seems to be an image in base64."""
    return text.lstrip().startswith(_STARTS_OF_IMAGES)
