"""Golden records: one stored record for every version that a message's schema ever had.

They are the proof that what was written once can be read for ever: each file holds the schema, the
bytes as they would lie in the log, and what they say. A version is a schema that differs in more
than its documentation. Files are added, never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
import msgspec.inspect as types

from tidelog.avro import KEPT, Schema, avro_schema
from tidelog.avro_writer import writer_of
from tidelog.codec import Codec
from tidelog.errors import CodecError, DefinitionError
from tidelog.message import Context, Message
from tidelog.registry.canonical import canonical
from tidelog.registry.lints import checked

SCHEMA_ID: Final = 1
"""The id in every golden value; each file brings its own schema."""

# Texts for patterns, the most telling first. What none of them fits needs a file by hand.
_TEXTS: Final = (
    *("sample-1", "EUR", "IT", "2026-01-02", "A", "1", "a@example.org", "+391234567"),
    "orders:3:1042",
)

# For what has one type and no bounds.
_VALUES: Final[Mapping[type[types.Type], Any]] = {
    types.BoolType: True,
    types.FloatType: 0.5,
    types.BytesType: b"\x00\xff",
    types.DateTimeType: datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    types.DateType: date(2026, 1, 2),
    types.TimeType: time(3, 4, 5, 678901),
    types.UUIDType: UUID("0190a4f1-7c11-7cc3-9d1a-0123456789ab"),
    types.DecimalType: Decimal(1),
    types.NoneType: None,
}


class Golden(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: `value` is the record's value in hex, `decoded` what it says, as JSON."""

    full_name: str
    version: int
    value: str
    decoded: dict[str, Any]
    schema: dict[str, Any]


class _OneSchema:
    """A registry with the schema of one golden record."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def register(self, subject: str, _schema_json: str) -> int:
        """Golden records are only read."""
        raise CodecError(f"{subject} cannot be registered here")

    def schema(self, schema_id: int) -> object:
        """The one schema."""
        if schema_id != SCHEMA_ID:
            raise CodecError(f"a golden value has schema id {SCHEMA_ID}")
        return self._schema

    def lookup(self, _subject: str, _schema_json: str) -> int | None:
        """Golden records are only read."""
        return None

    def check(self, _subject: str, _schema_json: str) -> list[str]:
        """Golden records are only read."""
        return []


def golden_of(context: Context, message: type[Message], version: int) -> Golden:
    """A golden record of today's schema, with a sample of the message."""
    full_name = context.full_name(message)
    schema = avro_schema(message, full_name)
    sample = sample_of(message)
    pieces = [b"\x00", SCHEMA_ID.to_bytes(4, "big")]
    writer_of(checked(schema))(msgspec.to_builtins(sample, builtin_types=KEPT), pieces.append)
    return Golden(
        full_name=full_name,
        version=version,
        value=b"".join(pieces).hex(),
        decoded=msgspec.to_builtins(sample),
        schema=schema,
    )


def read_golden(golden: Golden, context: Context) -> Message:
    """What today's code makes of the stored bytes."""
    name, message = Codec([context], _OneSchema(golden.schema)).decode_named(
        bytes.fromhex(golden.value)
    )
    if name != golden.full_name:
        raise CodecError(f"the record says {name}")
    return message


def agrees(expected: Any, found: Any) -> bool:
    """Whether `found` says what was expected, apart from fields added or removed since."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(agrees(expected[name], found[name]) for name in expected.keys() & found.keys())
    if isinstance(expected, list) and isinstance(found, list | tuple):
        return len(expected) == len(found) and all(map(agrees, expected, found))
    return bool(expected == found)


def same_version(one: Schema, other: Schema) -> bool:
    """Whether two schemas differ in their documentation at most."""
    return _undocumented(one) == _undocumented(other)


def _undocumented(schema: Schema) -> str:
    return canonical(checked(_without_docs(schema)))


def _without_docs(schema: Schema) -> Schema:
    if isinstance(schema, list):
        return [_without_docs(part) for part in schema]
    if isinstance(schema, dict):
        # A default is data; what is called "doc" there is no documentation.
        return {
            name: part if name == "default" else _without_docs(part)
            for name, part in schema.items()
            if name != "doc"
        }
    return schema


def sample_of(message: type[Message]) -> Message:
    """One message with every field set: always the same for the same type."""
    record = _sample(types.type_info(message), message.__name__)
    try:
        return msgspec.convert(record, message, builtin_types=KEPT)
    except msgspec.ValidationError as error:
        raise DefinitionError(
            f"{message.__name__}: no sample can be made ({error}); write its golden record by hand"
        ) from error


def _sample(info: types.Type, where: str) -> Any:
    if type(info) in _VALUES:
        return _VALUES[type(info)]
    make = _MAKERS.get(type(info))
    if make is None:
        raise DefinitionError(f"{where}: no sample of {type(info).__name__} is known")
    return make(info, where)


def _text(info: types.StrType, where: str) -> str:
    lowest, highest = info.min_length or 0, info.max_length or 1_000
    for text in (*_TEXTS, "x" * lowest):
        fits = info.pattern is None or re.search(info.pattern, text)
        if fits and lowest <= len(text) <= highest:
            return text
    raise DefinitionError(f"{where}: no sample fits its pattern; write the golden record by hand")


def _whole_number(info: types.IntType, _where: str) -> int:
    lowest = info.ge if info.ge is not None else None if info.gt is None else info.gt + 1
    highest = info.le if info.le is not None else None if info.lt is None else info.lt - 1
    step = info.multiple_of or 1
    value = 3 * step
    value = value if highest is None else min(value, highest - highest % step)
    return value if lowest is None else max(value, lowest + -lowest % step)


def _items(info: types.ListType | types.VarTupleType, where: str) -> list[Any]:
    return [_sample(info.item_type, where)] * max(1, info.min_length or 0)


def _union(info: types.UnionType, where: str) -> Any:
    """The first member that is not null."""
    members = [member for member in info.types if not isinstance(member, types.NoneType)]
    return _sample(members[0], where)


def _struct(info: types.StructType, where: str) -> dict[str, Any]:
    tag = {} if info.tag is None else {str(info.tag_field): info.tag}
    return tag | {
        field.encode_name: _sample(field.type, f"{where}.{field.name}") for field in info.fields
    }


_MAKERS: Final[Mapping[type[types.Type], Callable[[Any, str], Any]]] = {
    types.Metadata: lambda info, where: _sample(info.type, where),
    types.StrType: _text,
    types.IntType: _whole_number,
    types.LiteralType: lambda info, _: info.values[0],
    types.EnumType: lambda info, _: next(iter(info.cls)).value,
    types.ListType: _items,
    types.VarTupleType: _items,
    types.DictType: lambda info, where: {"key": _sample(info.value_type, where)},
    types.UnionType: _union,
    types.StructType: _struct,
}
