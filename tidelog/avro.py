"""Avro schemas, generated from message types: the annotations are the schema.

Only what Avro can say exactly is accepted. Everything else is a DefinitionError that names the
type and the field, so that it is found when a process starts and not in the log.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, NoReturn, TypeAlias, get_type_hints
from uuid import UUID

import msgspec
import msgspec.inspect as types

from tidelog.errors import DefinitionError
from tidelog.message import Message

Schema: TypeAlias = Any
"""A part of an Avro schema as JSON: a name, a list of branches, or an object."""

LONG_MIN: Final = -(2**63)
LONG_MAX: Final = 2**63 - 1
PRECISION_MAX: Final = 1_000
NESTING_MAX: Final = 32

KEPT: Final = (bytes, date, datetime, time, Decimal, UUID)
"""The types that msgspec leaves as they are between a message and its record."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

# What needs no further look: the msgspec type and its Avro type.
_PLAIN: Mapping[type[types.Type], Schema] = {
    types.NoneType: "null",
    types.BoolType: "boolean",
    types.IntType: "long",  # msgspec itself refuses bounds beyond 64 bits
    types.FloatType: "double",
    types.StrType: "string",
    types.BytesType: "bytes",
    types.DateType: {"type": "int", "logicalType": "date"},
    types.UUIDType: {"type": "string", "logicalType": "uuid"},
}


def Scale(*, precision: int, scale: int) -> msgspec.Meta:  # noqa: N802 (reads as a type)
    """How a Decimal is stored: so many digits in all, so many of them after the point.

    It is written in the annotation: `Annotated[Decimal, Scale(precision=12, scale=2)]`.
    """
    return msgspec.Meta(extra={"precision": precision, "scale": scale})


def avro_schema(message: type[Message], full_name: str) -> dict[str, Any]:
    """The Avro record of a message type; nested types get names in the same namespace.

    The same type gives the same schema, always: fields and branches in the order in which they
    are written, documentation from docstrings, defaults from the fields. An optional field has
    the default null where it has no other, so that adding or removing it stays compatible.
    """
    namespace, _, name = full_name.rpartition(".")
    generator = _Generator(namespace)
    try:
        info = types.type_info(message)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DefinitionError(f"{_culprit(message)}: {error}") from error
    if not isinstance(info, types.StructType):
        raise DefinitionError(f"{name} is not a message type")
    return {"type": "record", "name": name, "namespace": namespace, **generator.record(info, name)}


class _Generator:
    """One schema in the making: the names it has defined so far, and the types still open."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._defined: dict[str, object] = {}
        self._open: list[type] = []

    def schema(self, info: types.Type, owner: str, field: str) -> Schema:
        """The schema of a field's type, or of a part of it."""
        where = f"{owner}.{field}"
        if len(self._open) > NESTING_MAX:
            _refuse(where, f"nests deeper than {NESTING_MAX}")
        if type(info) in _PLAIN:
            return _PLAIN[type(info)]
        if isinstance(info, types.Metadata):
            return self._annotated(info, owner, field)
        named = self._named(info, owner, field)
        schema = self._compound(info, owner, field) if named is None else named
        if schema is None:
            _refuse(where, f"is a {_words(info)}, which has no Avro type")
        return schema

    def _named(self, info: types.Type, owner: str, field: str) -> Schema | None:
        where = f"{owner}.{field}"
        match info:
            case types.EnumType():
                symbols = [member.value for member in info.cls]
                return self._enum(info.cls.__name__, info.cls, symbols, where)
            case types.LiteralType():
                name = owner + _pascal_case(field)
                return self._enum(name, (owner, field), list(info.values), where)
            case types.StructType():
                return self._nested(info, where)
        return None

    def _compound(self, info: types.Type, owner: str, field: str) -> Schema | None:
        where = f"{owner}.{field}"
        match info:
            case types.DateTimeType():
                return _timestamp(info, where)
            case types.TimeType():
                return _time_of_day(info, where)
            case types.DecimalType():
                return _decimal({}, where)
            case types.ListType() | types.VarTupleType():
                return {"type": "array", "items": self._item(info.item_type, owner, field)}
            case types.DictType():
                return self._map(info, owner, field)
            case types.UnionType():
                return self._union(info, owner, field)
        return None

    def record(self, info: types.StructType, name: str) -> dict[str, Any]:
        """Documentation and fields of a struct type."""
        _check_struct(info, name)
        self._open.append(info.cls)
        self._defined[name] = info.cls
        fields = [] if info.tag is None else [self._tag(info, name)]
        fields += [self._field(field, name) for field in info.fields]
        self._open.pop()
        text = info.cls.__doc__
        return {**({"doc": " ".join(text.split())} if text else {}), "fields": fields}

    def _field(self, field: types.Field, owner: str) -> dict[str, Any]:
        name = field.encode_name
        where = f"{owner}.{name}"
        if not _NAME.fullmatch(name):
            _refuse(where, "has a name that Avro does not allow")
        schema = self.schema(field.type, owner, name)
        if field.required:
            default = {"default": None} if _is_optional(schema) else {}
            return {"name": name, "type": schema, **default}
        value = _python_default(field, where)
        if isinstance(schema, list):
            schema = _default_first(schema, value, where)
        return {"name": name, "type": schema, "default": _json_default(value, where)}

    def _tag(self, info: types.StructType, owner: str) -> dict[str, Any]:
        """The tag of a tagged struct is a field, so that every reader sees which branch it is."""
        field = str(info.tag_field)
        where = f"{owner}.{field}"
        if not _NAME.fullmatch(field):
            _refuse(where, "is a tag field with a name that Avro does not allow")
        return {
            "name": field,
            "type": self._enum(owner + _pascal_case(field), (owner, field), [info.tag], where),
        }

    def _annotated(self, info: types.Metadata, owner: str, field: str) -> Schema:
        where = f"{owner}.{field}"
        if isinstance(info.type, types.DecimalType):
            return _decimal(info.extra or {}, where)
        return self.schema(info.type, owner, field)

    def _item(self, info: types.Type, owner: str, field: str) -> Schema:
        """Items must take bytes: else a record of five bytes could hold a hundred million."""
        schema = self.schema(info, owner, field)
        if _is_empty(info):
            _refuse(f"{owner}.{field}", "holds items that take no bytes, so their number is free")
        return schema

    def _map(self, info: types.DictType, owner: str, field: str) -> Schema:
        if not isinstance(_bare(info.key_type), types.StrType):
            _refuse(f"{owner}.{field}", "is a dict with keys other than str")
        return {"type": "map", "values": self._item(info.value_type, owner, field)}

    def _union(self, info: types.UnionType, owner: str, field: str) -> Schema:
        """Null first, then the members as they are written."""
        members = sorted(info.types, key=lambda member: not isinstance(member, types.NoneType))
        branches = [self.schema(member, owner, field) for member in members]
        kinds = [_branch(branch) for branch in branches]
        if len(set(kinds)) != len(kinds):
            _refuse(f"{owner}.{field}", "is a union with two members of one Avro type")
        return branches

    def _enum(self, name: str, identity: object, symbols: list[Any], where: str) -> Schema:
        if not all(isinstance(symbol, str) and _NAME.fullmatch(symbol) for symbol in symbols):
            _refuse(where, "has values that are no Avro symbols: letters, digits and _ only")
        if self._is_defined(name, identity, where):
            return f"{self._namespace}.{name}"
        return {"type": "enum", "name": name, "symbols": symbols}

    def _nested(self, info: types.StructType, where: str) -> Schema:
        name = info.cls.__name__
        if info.cls in self._open:
            _refuse(where, f"is recursive: it leads back to {name}")
        if self._is_defined(name, info.cls, where):
            return f"{self._namespace}.{name}"
        return {"type": "record", "name": name, **self.record(info, name)}

    def _is_defined(self, name: str, identity: object, where: str) -> bool:
        """Whether the name is taken by this very type; by another one is an error."""
        if name not in self._defined:
            self._defined[name] = identity
            return False
        if self._defined[name] != identity:
            _refuse(where, f"needs the name {name}, which another type of this message has")
        return True


def _refuse(where: str, why: str) -> NoReturn:
    raise DefinitionError(f"{where} {why}")


def _culprit(message: type[Message]) -> str:
    """The field whose type msgspec does not take."""
    hints = get_type_hints(message, include_extras=True)
    for name, hint in hints.items():
        try:
            types.type_info(hint)
        except (TypeError, ValueError, NotImplementedError):
            return f"{message.__name__}.{name}"
    return message.__name__


def _bare(info: types.Type) -> types.Type:
    return info.type if isinstance(info, types.Metadata) else info


def _words(info: types.Type) -> str:
    """`TimedeltaType` → `timedelta`."""
    return type(info).__name__.removesuffix("Type").lower()


def _pascal_case(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _check_struct(info: types.StructType, name: str) -> None:
    if not _NAME.fullmatch(name):
        _refuse(name, "is not a name that Avro allows")
    if info.array_like:
        _refuse(name, "is array_like; Avro records have names for their fields")
    if info.cls.__struct_config__.omit_defaults:
        _refuse(name, "omits defaults; every field is written")


def _is_empty(info: types.Type) -> bool:
    """Whether values of the type take no bytes."""
    info = _bare(info)
    if isinstance(info, types.StructType):
        return info.tag is None and all(_is_empty(field.type) for field in info.fields)
    return isinstance(info, types.NoneType)


def _is_optional(schema: Schema) -> bool:
    return isinstance(schema, list) and schema[0] == "null"


def _branch(schema: Schema) -> str:
    """What tells the branches of a union apart: the name, else the type."""
    if isinstance(schema, str):
        return schema.rpartition(".")[2]
    return str(schema.get("name", schema["type"]))


def _timestamp(info: types.DateTimeType, where: str) -> Schema:
    if info.tz is not True:
        _refuse(where, "is a datetime that may be naive; annotate Meta(tz=True)")
    return {"type": "long", "logicalType": "timestamp-micros"}


def _time_of_day(info: types.TimeType, where: str) -> Schema:
    if info.tz is not False:
        _refuse(where, "is a time that may have a time zone; annotate Meta(tz=False)")
    return {"type": "long", "logicalType": "time-micros"}


def _decimal(extra: Mapping[str, Any], where: str) -> Schema:
    precision, scale = extra.get("precision"), extra.get("scale")
    if type(precision) is not int or type(scale) is not int:
        _refuse(where, "is a Decimal without digits; annotate Scale(precision=…, scale=…)")
    if not (1 <= precision <= PRECISION_MAX and 0 <= scale <= precision):
        _refuse(where, f"needs 1 <= precision <= {PRECISION_MAX} and 0 <= scale <= precision")
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def _python_default(field: types.Field, where: str) -> Any:
    """The field's default; of factories only those of empty containers, which always agree."""
    if field.default is not msgspec.NODEFAULT:
        return field.default
    if field.default_factory in (list, dict, tuple):
        return field.default_factory()
    _refuse(where, "has a default that is computed; Avro needs a constant")


def _default_first(branches: list[Schema], value: Any, where: str) -> list[Schema]:
    """Avro wants a union's default to be of its first branch."""
    fitting = [branch for branch in branches if _fits_branch(branch, value)]
    if not fitting:
        _refuse(where, "has a default that no member of its union takes")
    return [fitting[0], *(branch for branch in branches if branch is not fitting[0])]


_PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "long": (int,),
    "double": (float,),
    "string": (str,),
    "bytes": (bytes,),
    "enum": (str, enum.Enum),
    "array": (list, tuple),
    "map": (dict,),
}


def _fits_branch(branch: Schema, value: Any) -> bool:
    if isinstance(branch, str):
        return type(value) in _PYTHON_TYPES.get(branch, ())
    if branch["type"] == "record":
        return bool(type(value).__name__ == branch["name"])
    if "logicalType" in branch:
        return False
    kinds = _PYTHON_TYPES[branch["type"]]
    return type(value) in kinds or (enum.Enum in kinds and isinstance(value, enum.Enum))


def _json_default(value: Any, where: str) -> Any:
    """A default as Avro writes it in JSON.

    Bytes, decimals, days and times are refused: readers disagree about their form in JSON.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value, builtin_types=KEPT)
    if isinstance(value, dict):
        return {key: _json_default(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_default(item, where) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and LONG_MIN <= value <= LONG_MAX:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    _refuse(where, "has a default that Avro cannot write in JSON; make the field optional")
