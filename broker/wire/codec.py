"""How a message travels: two parts, the protocol version and the body in MessagePack.

On the `requests` socket a correlation id stands before them, on `events` the topic. Every direction
of every socket has one union of messages and one typed codec. Files never travel, only their names.
"""

from typing import Any, Generic, TypeVar

import msgspec

from broker.wire.errors import ProtocolError

PROTOCOL_VERSION = b"2"


MessageT = TypeVar("MessageT")


class Message(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag=True,
    omit_defaults=True,
):
    """Base of every message: frozen, tagged with its class name, strict, without its defaults."""


class Codec(Generic[MessageT]):
    """Encodes and decodes the messages of one direction."""

    def __init__(self, union: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[MessageT] = msgspec.msgpack.Decoder(union)

    def encode(self, message: MessageT) -> list[bytes]:
        return [PROTOCOL_VERSION, self._encoder.encode(message)]

    def decode(self, parts: list[bytes]) -> MessageT:
        """Return the message in the parts.

        Raises:
            ProtocolError: If the version or the message is not of this direction.
        """
        if len(parts) != 2 or parts[0] != PROTOCOL_VERSION:
            raise ProtocolError(
                f"expected version {PROTOCOL_VERSION!r} and a body, found {len(parts)} parts "
                f"starting with {parts[0][:16] if parts else b''!r}"
            )
        try:
            return self._decoder.decode(parts[1])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # Hostile bytes can raise the last two, although they are not msgspec errors.
            raise ProtocolError(f"undecodable body of {len(parts[1])} bytes") from error
