"""Avro schemas, generated from the types of messages. The types are the schema.

| Python | Avro |
|---|---|
| `bool`, `int`, `float`, `str`, `bytes` | boolean, long, double, string, bytes |
| `datetime` (in UTC), `date`, `time`, `UUID` | timestamp-micros, date, time-micros, uuid |
| `Annotated[Decimal, Scale(...)]` | decimal |
| `Literal["a", "b"]`, `Enum` with text values | enum |
| `X \\| None` | union with null first |
| `A \\| B` of tagged messages | union of records |
| `tuple[X, ...]`, `list[X]`, `dict[str, X]` | array, array, map |
| a `Message` | record, in the namespace of the message that holds it |
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import inspect as types

from tidelog.errors import DefinitionError
from tidelog.message import Message

LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1

Schema = Any

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_PRIMITIVES: dict[type[types.Type], Schema] = {
    types.NoneType: "null",
    types.BoolType: "boolean",
    types.IntType: "long",
    types.FloatType: "double",
    types.StrType: "string",
    types.BytesType: "bytes",
    types.DateTimeType: {"type": "long", "logicalType": "timestamp-micros"},
    types.DateType: {"type": "int", "logicalType": "date"},
    types.TimeType: {"type": "long", "logicalType": "time-micros"},
    types.UUIDType: {"type": "string", "logicalType": "uuid"},
}


def Scale(*, precision: int, scale: int) -> msgspec.Meta:
    """The bounds of a Decimal field: so many digits, so many of them behind the point."""
    return msgspec.Meta(extra={"precision": precision, "scale": scale})


def avro_schema(message: type[Message], full_name: str) -> Schema:
    """The record of the message under its full name; the same types give the same schema.

    Raises DefinitionError, naming message and field, for what Avro cannot say safely.
    """
    namespace, _, name = full_name.rpartition(".")
    return _Generator(namespace).record(message, name)


class _Generator:
    """One schema in the making; a named type is written out once and then named."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._done: dict[str, type[Any]] = {}
        self._open: list[type[Any]] = []

    def record(self, message: type[Any], name: str) -> Schema:
        if message in self._open:
            raise DefinitionError(f"{message.__name__} holds itself: recursive types are refused")
        if name in self._done:
            self._same(name, message)
            return f"{self._namespace}.{name}"
        info = types.type_info(message)
        assert isinstance(info, types.StructType)
        if not info.fields:
            raise DefinitionError(f"{message.__name__} has no field; an Avro record needs one")
        self._done[name] = message
        self._open.append(message)
        schema: dict[str, Any] = {"type": "record", "name": name, "namespace": self._namespace}
        if message.__doc__:
            schema["doc"] = " ".join(message.__doc__.split())
        schema["fields"] = [self._field(message, field) for field in info.fields]
        self._open.pop()
        return schema

    def _field(self, message: type[Any], field: types.Field) -> Schema:
        place = f"{message.__name__}.{field.name}"
        schema: dict[str, Any] = {
            "name": field.encode_name,
            "type": self._type(field.type, place, f"{message.__name__}{_camel(field.name)}"),
        }
        if field.default is not msgspec.NODEFAULT:
            schema["default"] = msgspec.to_builtins(field.default)
        elif field.default_factory is not msgspec.NODEFAULT:
            schema["default"] = msgspec.to_builtins(field.default_factory())
        if schema.get("default", "") is not None and _is_optional(schema["type"]):
            _check_default_is_first(schema, place)
        return schema

    def _type(self, kind: types.Type, place: str, name: str) -> Schema:
        if isinstance(kind, types.Metadata):
            if isinstance(kind.type, types.DecimalType):
                return _decimal(kind.extra, place)
            return self._type(kind.type, place, name)
        if isinstance(kind, types.IntType):
            _check_range(kind, place)
        if type(kind) in _PRIMITIVES:
            return _PRIMITIVES[type(kind)]
        match kind:
            case types.ListType(item_type=item) | types.VarTupleType(item_type=item):
                return {"type": "array", "items": self._type(item, place, name)}
            case types.DictType(key_type=types.StrType(), value_type=value):
                return {"type": "map", "values": self._type(value, place, name)}
            case types.LiteralType(values=values):
                return self._enum(values, place, name)
            case types.EnumType(cls=cls):
                return self._enum([member.value for member in cls], place, cls.__name__)
            case types.StructType(cls=cls):
                return self.record(cls, cls.__name__)
            case types.UnionType(types=members):
                ordered = sorted(members, key=lambda member: not isinstance(member, types.NoneType))
                return [self._type(member, place, name) for member in ordered]
        raise DefinitionError(f"{place}: Avro has no form for {type(kind).__name__}")

    def _enum(self, values: Any, place: str, name: str) -> Schema:
        odd = [
            value for value in values if not (isinstance(value, str) and _SYMBOL.fullmatch(value))
        ]
        if odd:
            raise DefinitionError(f"{place}: {odd[0]!r} cannot be an Avro symbol")
        if name in self._done:
            return f"{self._namespace}.{name}"
        self._done[name] = str
        return {
            "type": "enum",
            "name": name,
            "namespace": self._namespace,
            "symbols": list(values),
        }

    def _same(self, name: str, message: type[Any]) -> None:
        if self._done[name] is not message:
            raise DefinitionError(f"two types are named {name} in {self._namespace}")


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _is_optional(schema: Schema) -> bool:
    return isinstance(schema, list)


def _check_default_is_first(schema: dict[str, Any], place: str) -> None:
    if "default" in schema and schema["type"][0] == "null":
        raise DefinitionError(f"{place}: an optional field's default can only be None")


def _check_range(kind: types.IntType, place: str) -> None:
    for bound in (kind.ge, kind.gt, kind.le, kind.lt):
        if bound is not None and not LONG_MIN <= bound <= LONG_MAX:
            raise DefinitionError(f"{place}: {bound} does not fit a 64-bit integer")


def _decimal(extra: dict[str, Any] | None, place: str) -> Schema:
    if not extra or "precision" not in extra:
        raise DefinitionError(f"{place}: a Decimal needs Scale(precision=…, scale=…)")
    return {"type": "bytes", "logicalType": "decimal", **extra}
