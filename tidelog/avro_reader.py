"""Avro's binary form, read so strictly that only what is whole and well formed gives a value.

fastavro 1.13.1 reads what is not Avro: a negative index as another branch of a union, a number
of more than 64 bits, bytes behind the end as none. Here all of that is a fault, found in the one
pass, which costs less than to read with fastavro and compare with what it would write. A reader is
a closure over a checked schema: no schema is looked at while bytes are. The reader of a record is
a function written for its fields (tidelog/avro_record.py).

A value is read as plain Python, or as the type that a message declares in that place. Declared
types are made without a second look: a writer of ours checked patterns and bounds before.

A fault is a CodecError that names record and field, and never the content.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec.inspect as types

from tidelog.avro_record import Fields, Form, Items, Long, Optional, Symbols, Text, read_record
from tidelog.errors import CodecError
from tidelog.message import Message
from tidelog.registry.model import (
    ArrayOf,
    Enumeration,
    Fixed,
    MapOf,
    Node,
    Primitive,
    Record,
    Union,
)

Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]
"""(bytes, where) → (value, where it ends)."""

ReadWhole: TypeAlias = Callable[[bytes, int], Any]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
DOUBLE: Final = struct.Struct("<d")

# What bytes that are no value, and values that have no bytes, raise on the way.
FAULTS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    struct.error,
)

_FLOAT = struct.Struct("<f")
_DAY_US: Final = 86_400_000_000
_UUID_LENGTH: Final = 36
_LONG_BITS: Final = 64


def reader_of(node: Node) -> ReadWhole:
    """A function (bytes, where) → plain value of a checked schema, which must fill them."""
    return whole(_Readers().of(node, None))


def message_reader_of(node: Node, message: type[Message]) -> Read | None:
    """Reads a message whose schema this is; None where a type can be made in two ways."""
    try:
        return _Readers().of(node, types.type_info(message))
    except NotImplementedError:
        return None


def whole(read: Read) -> ReadWhole:
    """The same reader for a value that must fill the bytes; its faults are CodecErrors."""

    def read_whole(data: bytes, at: int) -> Any:
        try:
            value, end = read(data, at)
        except FAULTS as fault:
            raise CodecError(reason(fault)) from None
        if end != len(data):
            raise CodecError("it is cut off" if end > len(data) else "bytes are left over")
        return value

    return read_whole


def finite(value: float) -> float:
    """The number; NaN and the infinities have no form in JSON and are refused."""
    if not math.isfinite(value):
        raise ValueError("the number is not finite")
    return value


def without_nul(text: str) -> str:
    """The text; one with NUL is refused, because PostgreSQL refuses it later."""
    if "\0" in text:
        raise ValueError("NUL is no text")
    return text


def reason(fault: Exception) -> str:
    """Our own words, or what kind of fault it is: other words may hold the content."""
    if isinstance(fault, IndexError):
        return "it is cut off"
    return (
        str(fault)
        if type(fault) is ValueError
        else f"it has no such value ({type(fault).__name__})"
    )


def _read_null(_: bytes, at: int) -> tuple[None, int]:
    return None, at


def _read_boolean(data: bytes, at: int) -> tuple[bool, int]:
    byte = data[at]
    if byte > 1:
        raise ValueError("a boolean is 0 or 1")
    return byte == 1, at + 1


def _read_long(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    rest, shift = byte & 127, 7
    while byte > 127:
        byte = data[at]
        at += 1
        rest |= (byte & 127) << shift
        shift += 7
        if shift > _LONG_BITS + 6 or byte == 0:
            raise ValueError("the number is longer than it needs to be")
    if rest >> _LONG_BITS:
        raise ValueError("the number does not fit 64 bits")
    return (rest >> 1) ^ -(rest & 1), at


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_long(data, at)
    if not -(2**31) <= value < 2**31:
        raise ValueError("the number does not fit 32 bits")
    return value, at


def _read_double(data: bytes, at: int) -> tuple[float, int]:
    return finite(DOUBLE.unpack_from(data, at)[0]), at + 8


def _read_float(data: bytes, at: int) -> tuple[float, int]:
    return finite(_FLOAT.unpack_from(data, at)[0]), at + 4


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _read_long(data, at)
    end = at + size
    if not at <= end <= len(data):
        raise ValueError("the length is beyond the end")
    return data[at:end], end


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    raw, at = _read_bytes(data, at)
    return without_nul(raw.decode()), at


_READ_PRIMITIVE: Mapping[str, Read] = {
    "null": _read_null,
    "boolean": _read_boolean,
    "int": _read_int,
    "long": _read_long,
    "float": _read_float,
    "double": _read_double,
    "bytes": _read_bytes,
    "string": _read_text,
}


class _Readers:
    """Readers of the types of one schema; a named type gets one, however often it is used."""

    def __init__(self) -> None:
        self._named: dict[str, Read] = {}
        self._forms: dict[Read, Form] = {_read_text: Text(), _read_long: Long()}

    def of(self, node: Node, declared: types.Type | None) -> Read:
        if isinstance(declared, types.Metadata):
            declared = declared.type
        match node:
            case Primitive():
                return _logical(_READ_PRIMITIVE[node.kind], dict(node.properties))
            case Fixed():
                return _logical(_read_fixed(node.size), dict(node.properties))
            case Enumeration():
                members = _members(node.symbols, declared)
                return self._known(_read_enum(members), Symbols(members))
            case ArrayOf():
                return self._array(node, declared)
            case MapOf():
                values = declared.value_type if isinstance(declared, types.DictType) else None
                return _read_map(self.of(node.values, values))
            case Union():
                return self._union(node, declared)
            case Record():
                return self._record(node, declared)

    def _array(self, node: ArrayOf, declared: types.Type | None) -> Read:
        if isinstance(declared, types.VarTupleType):
            read, make = self.of(node.items, declared.item_type), tuple
            return self._known(_read_array(read, make), Items(read, make))
        items = declared.item_type if isinstance(declared, types.ListType) else None
        read = self.of(node.items, items)
        return self._known(_read_array(read, None), Items(read, None))

    def _union(self, node: Union, declared: types.Type | None) -> Read:
        branches = zip(node.branches, _branches(node, declared), strict=True)
        reads = tuple(self.of(branch, made) for branch, made in branches)
        read = _read_union(reads)
        if len(reads) == 2 and _read_null in reads:
            null = reads.index(_read_null)
            self._forms[read] = Optional(null, reads[1 - null])
        return read

    def _record(self, node: Record, declared: types.Type | None) -> Read:
        if node.name not in self._named:
            struct = declared if isinstance(declared, types.StructType) else None
            if struct and (struct.tag or any(f.name != f.encode_name for f in struct.fields)):
                raise NotImplementedError
            made = {field.name: field.type for field in struct.fields} if struct else {}
            fields = {
                field.name: self.of(field.type, made.get(field.name)) for field in node.fields
            }
            record = Fields(node.name.rpartition(".")[2], fields, struct.cls if struct else None)
            read = read_record(record, self._forms, faults=FAULTS, reason=reason)
            self._named[node.name] = self._known(read, record)
        return self._named[node.name]

    def _known(self, read: Read, form: Form) -> Read:
        """The reader, whose values can be read in place as well."""
        self._forms[read] = form
        return read


def _members(symbols: tuple[str, ...], declared: types.Type | None) -> tuple[Any, ...]:
    if not isinstance(declared, types.EnumType):
        return symbols
    members = {member.value: member for member in declared.cls}
    return tuple(members[symbol] for symbol in symbols)


def _branches(node: Union, declared: types.Type | None) -> list[types.Type | None]:
    """The declared type of each branch. Beside null there may be one that is made at all."""
    if not isinstance(declared, types.UnionType):
        return [None] * len(node.branches)
    kinds = [each for each in declared.types if not isinstance(each, types.NoneType)]
    if len(kinds) != 1:
        raise NotImplementedError
    (kind,) = kinds
    null = Primitive(kind="null")
    return [None if branch == null else kind for branch in node.branches]


def _read_fixed(size: int) -> Read:
    def read_fixed(data: bytes, at: int) -> tuple[bytes, int]:
        end = at + size
        if end > len(data):
            raise ValueError("it is cut off")
        return data[at:end], end

    return read_fixed


def _read_enum(symbols: tuple[Any, ...]) -> Read:
    def read_enum(data: bytes, at: int) -> tuple[Any, int]:
        index, at = _read_long(data, at)
        if not 0 <= index < len(symbols):
            raise ValueError("the enum has no such symbol")
        return symbols[index], at

    return read_enum


def _read_union(branches: tuple[Read, ...]) -> Read:
    def read_union(data: bytes, at: int) -> tuple[Any, int]:
        index, at = _read_long(data, at)
        if not 0 <= index < len(branches):
            raise ValueError("the union has no such branch")
        return branches[index](data, at)

    return read_union


def _read_array(read: Read, make: Callable[[list[Any]], Any] | None) -> Read:
    def read_array(data: bytes, at: int) -> tuple[Any, int]:
        items: list[Any] = []
        count, at, end = _block(data, at)
        while count:
            for _ in range(count):
                item, at = read(data, at)
                items.append(item)
            _check_block_end(at, end)
            # Nearly always the end: one block is what everybody writes.
            count, at, end = _block(data, at) if data[at] else (0, at + 1, None)
        return items if make is None else make(items), at

    return read_array


def _read_map(read: Read) -> Read:
    def read_map(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        values: dict[str, Any] = {}
        count, at, end = _block(data, at)
        while count:
            for _ in range(count):
                key, at = _read_text(data, at)
                if key in values:
                    raise ValueError("the map has a key twice")
                values[key], at = read(data, at)
            _check_block_end(at, end)
            count, at, end = _block(data, at)
        return values, at

    return read_map


def _block(data: bytes, at: int) -> tuple[int, int, int | None]:
    """The start of a block of items: their number, where they begin, and the end if it is said.

    Every item takes a byte at least (the schema was checked), so the bytes bound the number.
    """
    end = None
    count, at = _read_long(data, at)
    if count < 0:
        size, at = _read_long(data, at)
        count, end = -count, at + size
    if count > len(data) - at:
        raise ValueError("more items are announced than bytes are left")
    return count, at, end


def _check_block_end(at: int, end: int | None) -> None:
    if end is not None and at != end:
        raise ValueError("a block does not end where it says")


def _logical(read: Read, properties: Mapping[str, Any]) -> Read:
    kind = properties.get("logicalType")
    if kind is None:
        return read
    if kind == "decimal":
        convert = _to_decimal(properties["precision"], properties.get("scale", 0))
    else:
        convert = _TO_LOGICAL[kind]

    def read_logical(data: bytes, at: int) -> tuple[Any, int]:
        value, at = read(data, at)
        return convert(value), at

    return read_logical


def _to_decimal(precision: int, scale: int) -> Callable[[bytes], Decimal]:
    bytes_max = precision // 2 + 1

    def to_decimal(raw: bytes) -> Decimal:
        if not 0 < len(raw) <= bytes_max:
            raise ValueError("the decimal has no digits, or too many")
        unscaled = int.from_bytes(raw, "big", signed=True)
        digits = tuple(map(int, str(abs(unscaled))))
        if len(digits) > precision:
            raise ValueError("the decimal has too many digits")
        return Decimal((int(unscaled < 0), digits, -scale))

    return to_decimal


def _to_uuid(text: str) -> UUID:
    if len(text) != _UUID_LENGTH:
        raise ValueError("a UUID has 36 characters")
    return UUID(text)


def _to_time(microseconds: int) -> time:
    if not 0 <= microseconds < _DAY_US:
        raise ValueError("a day has no such time")
    return (EPOCH + timedelta(microseconds=microseconds)).time()


def _to_timestamp(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def _to_local(microseconds: int) -> datetime:
    return _to_timestamp(microseconds).replace(tzinfo=None)


_TO_LOGICAL: Mapping[str, Callable[[Any], Any]] = {
    "date": lambda days: date.fromordinal(EPOCH_DAY + days),
    "uuid": _to_uuid,
    "time-micros": _to_time,
    "time-millis": lambda milliseconds: _to_time(milliseconds * 1_000),
    "timestamp-micros": _to_timestamp,
    "timestamp-millis": lambda milliseconds: _to_timestamp(milliseconds * 1_000),
    "local-timestamp-micros": _to_local,
    "local-timestamp-millis": lambda milliseconds: _to_local(milliseconds * 1_000),
}
