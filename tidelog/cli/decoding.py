"""Values of records as people read them: decoded with the schema that wrote them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidelog.avro_reader import reader_of
from tidelog.errors import CodecError, TidelogError
from tidelog.registry.client import RegistryClient
from tidelog.registry.lints import checked

PREFIX_BYTES = 5


class ValueDecoder:
    """Decodes whatever the registry has a schema for; what cannot be read says why."""

    def __init__(self, registry_url: str | None) -> None:
        self._registry = RegistryClient(registry_url) if registry_url else None
        self._readers: dict[int, Callable[[bytes, int], Any]] = {}

    def described(self, value: bytes | None) -> dict[str, Any]:
        """`{"data": …}`, or `{"undecodable": reason}`."""
        try:
            return {"data": self._decoded(value or b"")}
        except TidelogError as error:
            return {"undecodable": str(error)}

    def close(self) -> None:
        """Let go of the registry."""
        if self._registry is not None:
            self._registry.close()

    def _decoded(self, value: bytes) -> Any:
        if self._registry is None:
            raise CodecError("the system has no schema registry")
        if len(value) < PREFIX_BYTES or value[0] != 0:
            raise CodecError("the value is not in the wire format: 0x00, schema id, Avro")
        schema_id = int.from_bytes(value[1:PREFIX_BYTES], "big")
        if schema_id not in self._readers:
            self._readers[schema_id] = reader_of(checked(self._registry.schema(schema_id)))
        return self._readers[schema_id](value, PREFIX_BYTES)
