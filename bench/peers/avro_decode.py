"""Avro values of the wire format to plain dicts, unchecked: the field's usual way.

fastavro and the standard library only: peers of other environments decode with it too.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastavro

PREFIX_BYTES = 5


class Decoder:
    """Reads values with the schemas that wrote them."""

    def __init__(self, schemas: Mapping[int, Any]) -> None:
        self._schemas = {number: fastavro.parse_schema(each) for number, each in schemas.items()}
        self._names = {
            number: str(each["name"]).rpartition(".")[2] for number, each in schemas.items()
        }

    def decode(self, value: bytes) -> dict[str, Any]:
        """The fields."""
        schema = self._schemas[int.from_bytes(value[1:PREFIX_BYTES], "big")]
        found: Any = fastavro.schemaless_reader(io.BytesIO(value[PREFIX_BYTES:]), schema, None)
        return dict(found) if type(found) is not dict else found

    def name_of(self, value: bytes) -> str:
        """The short name of the event: `OrderPlaced`."""
        return self._names[int.from_bytes(value[1:PREFIX_BYTES], "big")]


def saved_decoder(path: Path) -> Decoder:
    """The decoder whose schemas stand in the file, by id."""
    found = json.loads(path.read_text())
    return Decoder({int(number): schema for number, schema in found.items()})
