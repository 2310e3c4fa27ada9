"""A codec without a registry: the message's short name, a line break, and its fields as JSON."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tidelog.errors import CodecError
from tidelog.message import Message


class MemoryCodec:
    """Encodes the given message types. Like Avro it refuses what does not fit its type."""

    def __init__(self, message_types: Iterable[type[Message]]) -> None:
        self._prefixes = {kind: f"{kind.__name__}\n".encode() for kind in message_types}
        self._decoders = {
            kind.__name__.encode(): msgspec.json.Decoder(kind) for kind in self._prefixes
        }
        self._encoder = msgspec.json.Encoder()

    def encode(self, message: Message) -> bytes:
        """The stored form; CodecError if the message does not fit its type."""
        prefix = self._prefixes.get(type(message))
        if prefix is None:
            raise CodecError(f"{type(message).__name__} is not a known message")
        try:
            return prefix + self._encoder.encode(message)
        except (TypeError, ValueError) as error:
            raise CodecError(f"{type(message).__name__} does not fit its type") from error

    def decode(self, value: bytes) -> Message:
        """The message; CodecError if the bytes are not one of ours."""
        name, _, body = value.partition(b"\n")
        decoder = self._decoders.get(name)
        if decoder is None:
            raise CodecError("the bytes do not name a known message")
        try:
            return decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise CodecError("the bytes are not a whole message") from error
