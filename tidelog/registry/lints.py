"""What a schema must satisfy before it is registered, or used to decode untrusted bytes.

Pure. The rules beyond Avro's own exist because of what decoders do: a recursive type crashes
the process, an array of a type that takes no bytes makes a hundred million items out of five
bytes, an unknown logical type is silently ignored, and a default of the wrong type fails only
years later, in the reader.
"""

from __future__ import annotations

import json
import math

from tidelog.registry.errors import SchemaRefused
from tidelog.registry.model import (
    ArrayOf,
    Enumeration,
    Field,
    Fixed,
    MapOf,
    Node,
    Primitive,
    Record,
    Union,
    parse_schema,
    strict_json,
)

# Logical type → the types that may carry it: exactly those that the decoder honours.
LOGICAL_TYPES: dict[str, tuple[str, ...]] = {
    "decimal": ("bytes", "fixed"),
    "uuid": ("string",),
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
}

_INTEGERS = {"int": 2**31, "long": 2**63}


def check_schema(schema: object) -> None:
    """Check a schema given as JSON (str, dict, list); SchemaRefused (a CodecError) says why not."""
    checked(schema)


def checked(schema: object) -> Node:
    """The parsed schema, once every rule holds."""
    return checked_text(_as_text(schema))


def checked_text(text: str) -> Node:
    """The same for the JSON text of a schema."""
    node = parse_schema(strict_json(text))
    _walk(node, _root(node))
    return node


def is_zero_byte(node: Node) -> bool:
    """Whether every value of the type takes no bytes on the wire."""
    match node:
        case Primitive():
            return node.kind == "null"
        case Fixed():
            return node.size == 0
        case Record():
            return all(is_zero_byte(field.type) for field in node.fields)
        case _:
            return False


def _as_text(schema: object) -> str:
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise SchemaRefused("schema", "is not JSON, or nests without end") from None


def _root(node: Node) -> str:
    match node:
        case Record() | Enumeration() | Fixed():
            return node.name.rpartition(".")[2]
        case _:
            return "schema"


def _walk(node: Node, path: str) -> None:
    _check_logical_type(node, path)
    match node:
        case Record():
            for field in node.fields:
                _check_field(field, f"{path}.{field.name}")
        case ArrayOf():
            _refuse_zero_byte(node.items, path, "an array")
            _walk(node.items, f"{path}[]")
        case MapOf():
            _refuse_zero_byte(node.values, path, "a map")
            _walk(node.values, f"{path}{{}}")
        case Union():
            for branch in node.branches:
                _walk(branch, path)
        case Primitive() | Enumeration() | Fixed():
            return


def _check_field(field: Field, path: str) -> None:
    if any(key == "logicalType" for key, _ in field.properties):
        raise SchemaRefused(
            path,
            "has logicalType beside its type, where decoders ignore it; put it inside",
        )
    _walk(field.type, path)
    if field.has_default:
        _check_default(field.type, field.default, path)


def _refuse_zero_byte(node: Node, path: str, what: str) -> None:
    if is_zero_byte(node):
        raise SchemaRefused(
            path, f"is {what} of items that take no bytes, so its size is unbounded"
        )


def _check_logical_type(node: Node, path: str) -> None:
    properties = dict(node.properties)
    if "logicalType" not in properties:
        return
    name = properties["logicalType"]
    bases = LOGICAL_TYPES.get(name) if isinstance(name, str) else None
    if bases is None:
        known = ", ".join(LOGICAL_TYPES)
        raise SchemaRefused(path, f"has an unknown logical type; known: {known}")
    if node.kind not in bases:
        raise SchemaRefused(
            path, f"has logical type {name} on {node.kind}; it belongs on {bases[0]}"
        )
    if name == "decimal":
        _check_decimal(node, properties, path)


def _check_decimal(node: Node, properties: dict[str, object], path: str) -> None:
    precision, scale = properties.get("precision"), properties.get("scale", 0)
    if not _is_integer(precision) or not _is_integer(scale):
        raise SchemaRefused(path, "has a decimal without whole precision and scale")
    assert isinstance(precision, int) and isinstance(scale, int)
    if precision < 1 or not 0 <= scale <= precision:
        raise SchemaRefused(path, "has a decimal outside precision >= 1, 0 <= scale <= precision")
    if isinstance(node, Fixed) and precision > _digits(node.size):
        raise SchemaRefused(path, f"has a decimal precision that {node.size} bytes cannot hold")


def _digits(size: int) -> int:
    """The most decimal digits that always fit a two's complement number of `size` bytes."""
    return math.floor(math.log10(2) * (8 * size - 1)) if size else 0


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_default(node: Node, default: object, path: str) -> None:
    """A default must be a value of its type; of a union, of its first branch."""
    if isinstance(node, Union):
        first = node.branches[0]
        if not _fits(first, default):
            raise SchemaRefused(
                path,
                f"has a default that is not a {first.kind}, the union's first type",
            )
        return
    if not _fits(node, default):
        raise SchemaRefused(path, f"has a default that is not a valid {node.kind}")


def _fits(node: Node, value: object) -> bool:
    match node:
        case Primitive():
            return _fits_primitive(node.kind, value)
        case Enumeration():
            return isinstance(value, str) and value in node.symbols
        case Fixed():
            return _is_binary(value) and len(str(value)) == node.size
        case ArrayOf():
            return isinstance(value, list) and all(_fits(node.items, item) for item in value)
        case MapOf():
            return isinstance(value, dict) and all(
                _fits(node.values, item) for item in value.values()
            )
        case Record():
            return isinstance(value, dict) and _fits_record(node, value)
        case Union():
            return _fits(node.branches[0], value)


def _fits_record(node: Record, value: dict[str, object]) -> bool:
    known = {field.name for field in node.fields}
    return set(value) <= known and all(
        _fits(field.type, value[field.name]) if field.name in value else field.has_default
        for field in node.fields
    )


def _fits_primitive(kind: str, value: object) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in _INTEGERS:
        bound = _INTEGERS[kind]
        return isinstance(value, int) and not isinstance(value, bool) and -bound <= value < bound
    if kind in ("float", "double"):
        return _is_number(value)
    if kind == "bytes":
        return _is_binary(value)
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 1.7976931348623157e308


def _is_binary(value: object) -> bool:
    """Avro writes bytes in JSON as one character per byte, U+0000 to U+00FF."""
    return isinstance(value, str) and all(ord(character) <= 255 for character in value)
