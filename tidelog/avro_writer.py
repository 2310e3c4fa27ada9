"""Avro's binary form, written from records that were checked against their type.

A writer is a closure over a schema that this library made: no schema is looked at while values are.
What still has no bytes (an int beyond 64 bits, a decimal with too many digits, a time that is not
in UTC, a number that is not finite, NUL in a text) is a CodecError that names record and field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

from tidelog.avro_reader import DOUBLE, EPOCH, EPOCH_DAY, FAULTS, finite, reason, without_nul
from tidelog.errors import CodecError, DefinitionError
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

Take: TypeAlias = Callable[[bytes], None]
Write: TypeAlias = Callable[[Any, Take], None]
"""(value, take): gives the value's bytes to `take`, piece by piece."""

_UTC_OFFSET = timedelta(0)
_MICROSECOND = timedelta(microseconds=1)


def writer_of(node: Node) -> Write:
    """A function that writes one value of a schema that we made; records are dicts."""
    return _Writers().of(node)


def _long_bytes(value: int) -> bytes:
    """Zigzag, then seven bits a byte, the lowest first."""
    if not -(2**63) <= value < 2**63:
        raise ValueError("the number does not fit 64 bits")
    rest = (value << 1) ^ (value >> 63)
    written = bytearray()
    while rest > 127:
        written.append(rest & 127 | 128)
        rest >>= 7
    written.append(rest)
    return bytes(written)


_SMALL_MAX: Final = 2_048
_SMALL = tuple(_long_bytes(number) for number in range(_SMALL_MAX))


def _write_null(_value: None, _take: Take) -> None:
    """Null takes no bytes."""


def _write_boolean(value: bool, take: Take) -> None:
    take(b"\x01" if value else b"\x00")


def _write_long(value: int, take: Take) -> None:
    take(_SMALL[value] if 0 <= value < _SMALL_MAX else _long_bytes(value))


def _write_double(value: float, take: Take) -> None:
    take(DOUBLE.pack(finite(value)))


def _write_bytes(value: bytes, take: Take) -> None:
    _write_long(len(value), take)
    take(value)


def _write_text(value: str, take: Take) -> None:
    _write_bytes(without_nul(value).encode(), take)


def _write_date(value: date, take: Take) -> None:
    take(_long_bytes(value.toordinal() - EPOCH_DAY))


def _write_uuid(value: UUID, take: Take) -> None:
    _write_text(str(value), take)


def _write_time(value: time, take: Take) -> None:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    take(_long_bytes(seconds * 1_000_000 + value.microsecond))


def _write_timestamp(value: datetime, take: Take) -> None:
    if value.utcoffset() != _UTC_OFFSET:
        raise ValueError("it is not in UTC")
    take(_long_bytes((value - EPOCH) // _MICROSECOND))


_WRITE_PRIMITIVE: Mapping[str, Write] = {
    "null": _write_null,
    "boolean": _write_boolean,
    "long": _write_long,
    "double": _write_double,
    "bytes": _write_bytes,
    "string": _write_text,
    "date": _write_date,
    "uuid": _write_uuid,
    "time-micros": _write_time,
    "timestamp-micros": _write_timestamp,
}

# The Avro type → the Python types whose values a union gives to that branch.
_MEMBERS: Mapping[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "long": (int,),
    "double": (float,),
    "bytes": (bytes,),
    "string": (str,),
    "enum": (str,),
    "array": (list, tuple),
    "map": (dict,),
    "record": (dict,),
    "date": (date,),
    "uuid": (UUID,),
    "time-micros": (time,),
    "timestamp-micros": (datetime,),
    "decimal": (Decimal,),
}


class _Writers:
    """Writers of the types of one schema that we made; the forms are those that we make."""

    def __init__(self) -> None:
        self._named: dict[str, Write] = {}

    def of(self, node: Node) -> Write:
        match node:
            case Primitive():
                return _write_primitive(node)
            case Enumeration():
                return _write_enum(node.symbols)
            case ArrayOf():
                return _write_array(self.of(node.items))
            case MapOf():
                return _write_map(self.of(node.values))
            case Union():
                return _write_union(node, tuple(self.of(branch) for branch in node.branches))
            case Record():
                return self._record(node)
            case Fixed():
                raise DefinitionError("messages have no fixed")

    def _record(self, node: Record) -> Write:
        if node.name not in self._named:
            fields = tuple((field.name, self.of(field.type)) for field in node.fields)
            self._named[node.name] = _write_record(node.name.rpartition(".")[2], fields)
        return self._named[node.name]


def _write_record(record: str, fields: tuple[tuple[str, Write], ...]) -> Write:
    marked = tuple((name, write is _write_text, write) for name, write in fields)

    def write_record(values: Mapping[str, Any], take: Take) -> None:
        name = ""
        try:
            for name, is_text, write in marked:
                value = values[name]
                if is_text and "\0" not in value:
                    raw = value.encode()
                    size = len(raw)
                    take(_SMALL[size] if size < _SMALL_MAX else _long_bytes(size))
                    take(raw)
                else:
                    write(value, take)
        except FAULTS as fault:
            raise CodecError(f"{record}.{name}: {reason(fault)}") from None

    return write_record


def _write_primitive(node: Primitive) -> Write:
    properties: dict[str, Any] = dict(node.properties)
    kind = properties.get("logicalType", node.kind)
    if kind == "decimal":
        return _write_decimal(properties["precision"], properties["scale"])
    return _WRITE_PRIMITIVE[kind]


def _write_decimal(precision: int, scale: int) -> Write:
    def write_decimal(value: Decimal, take: Take) -> None:
        sign, digits, exponent = value.as_tuple()
        if not isinstance(exponent, int) or abs(exponent) > precision + scale:
            raise ValueError("the decimal is not finite, or far out of its digits")
        unscaled = int("".join(map(str, digits)))
        shift = exponent + scale
        unscaled, lost = (unscaled * 10**shift, 0) if shift >= 0 else divmod(unscaled, 10**-shift)
        if lost or unscaled >= 10**precision:
            raise ValueError(f"it has more digits than decimal({precision}, {scale}) holds")
        number = -unscaled if sign else unscaled
        _write_bytes(number.to_bytes(_octets(number), "big", signed=True), take)

    return write_decimal


def _octets(number: int) -> int:
    """How many bytes the two's complement takes at least."""
    return (number if number >= 0 else ~number).bit_length() // 8 + 1


def _write_enum(symbols: tuple[str, ...]) -> Write:
    written = {symbol: _long_bytes(index) for index, symbol in enumerate(symbols)}

    def write_enum(value: str, take: Take) -> None:
        take(written[value])

    return write_enum


def _write_array(write: Write) -> Write:
    def write_array(items: list[Any], take: Take) -> None:
        if items:
            _write_long(len(items), take)
            for item in items:
                write(item, take)
        take(b"\x00")

    return write_array


def _write_map(write: Write) -> Write:
    def write_map(values: Mapping[str, Any], take: Take) -> None:
        if values:
            _write_long(len(values), take)
            for key, value in values.items():
                _write_text(key, take)
                write(value, take)
        take(b"\x00")

    return write_map


def _write_union(node: Union, writes: tuple[Write, ...]) -> Write:
    """The branch is chosen by the type of the value, and among records by their tag."""
    by_type: dict[type, tuple[bytes, Write]] = {}
    by_tag: dict[str, tuple[bytes, Write]] = {}
    tagged = sum(isinstance(branch, Record) for branch in node.branches) > 1
    tag = ""
    for index, (branch, write) in enumerate(zip(node.branches, writes, strict=True)):
        choice = (_long_bytes(index), write)
        if tagged and isinstance(branch, Record):
            tag, symbol = _tag_of(branch)
            by_tag[symbol] = choice
        for kind in _members(branch):
            by_type[kind] = choice
    if float in by_type:
        by_type.setdefault(int, by_type[float])

    def write_union(value: Any, take: Take) -> None:
        by_its_tag = tagged and type(value) is dict
        index, write = by_tag[value[tag]] if by_its_tag else by_type[type(value)]
        take(index)
        write(value, take)

    return write_union


def _tag_of(branch: Record) -> tuple[str, str]:
    """The tag of a tagged struct, which is its first field: an enum of one symbol."""
    first = branch.fields[0]
    assert isinstance(first.type, Enumeration), "structs of a union are tagged"
    return first.name, first.type.symbols[0]


def _members(branch: Node) -> tuple[type, ...]:
    kind = dict(branch.properties).get("logicalType", branch.kind)
    return _MEMBERS.get(str(kind), ())
