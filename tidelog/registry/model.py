"""An Avro schema as frozen nodes, parsed so strictly that every later walk is bounded.

What has been parsed is free of cycles, of unresolved or repeated names and of unions that
cannot be decoded; its depth and its size with all names expanded are bounded. `lints.py` adds
the rules that need a finished tree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NoReturn, TypeAlias

from tidelog.registry.errors import SchemaRefused

SCHEMA_BYTES_MAX = 256 * 1024
DEPTH_MAX = 64
# All names expanded. Records without fields cost no bytes on the wire, so without this bound a
# small schema could make a reader build 2^60 of them from an empty value.
EXPANDED_NODES_MAX = 100_000
FIXED_BYTES_MAX = 1024 * 1024

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_COMPLEX = ("record", "enum", "fixed", "array", "map")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FULL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")

# Attributes that are part of the type itself; all others are properties.
_ATTRIBUTES: dict[str, frozenset[str]] = {
    "record": frozenset({"type", "name", "namespace", "doc", "aliases", "fields"}),
    "enum": frozenset({"type", "name", "namespace", "doc", "aliases", "symbols", "default"}),
    "fixed": frozenset({"type", "name", "namespace", "doc", "aliases", "size"}),
    "array": frozenset({"type", "items"}),
    "map": frozenset({"type", "values"}),
    "field": frozenset({"name", "type", "doc", "default", "order", "aliases"}),
}

Properties: TypeAlias = tuple[tuple[str, object], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """How many types a type expands to, and how deep, with all names written out."""

    nodes: int
    height: int


LEAF = Extent(nodes=1, height=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Primitive:
    """One of Avro's eight primitive types, with its properties (logical type among them)."""

    kind: str
    properties: Properties = ()
    extent: ClassVar[Extent] = LEAF


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A field of a record."""

    name: str
    type: Node
    has_default: bool
    default: object = None
    doc: str | None = None
    order: str = "ascending"
    aliases: tuple[str, ...] = ()
    properties: Properties = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record; `name` is the full name."""

    kind: ClassVar[str] = "record"
    name: str
    fields: tuple[Field, ...]
    extent: Extent
    doc: str | None = None
    aliases: tuple[str, ...] = ()
    properties: Properties = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Enumeration:
    """An enum; `name` is the full name."""

    kind: ClassVar[str] = "enum"
    extent: ClassVar[Extent] = LEAF
    name: str
    symbols: tuple[str, ...]
    default: str | None = None
    doc: str | None = None
    aliases: tuple[str, ...] = ()
    properties: Properties = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A fixed; `name` is the full name."""

    kind: ClassVar[str] = "fixed"
    extent: ClassVar[Extent] = LEAF
    name: str
    size: int
    doc: str | None = None
    aliases: tuple[str, ...] = ()
    properties: Properties = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayOf:
    """An array."""

    kind: ClassVar[str] = "array"
    items: Node
    extent: Extent
    properties: Properties = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MapOf:
    """A map from strings."""

    kind: ClassVar[str] = "map"
    values: Node
    extent: Extent
    properties: Properties = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Union:
    """A union of at least one branch."""

    kind: ClassVar[str] = "union"
    properties: ClassVar[Properties] = ()
    branches: tuple[Node, ...]
    extent: Extent


Node: TypeAlias = Primitive | Record | Enumeration | Fixed | ArrayOf | MapOf | Union
Named: TypeAlias = Record | Enumeration | Fixed


def parse_text(text: str) -> Node:
    """Parse the JSON text of a schema; SchemaRefused names the path and the rule."""
    return parse_schema(strict_json(text))


def parse_schema(schema: object) -> Node:
    """Parse a schema that is already JSON (str, dict or list)."""
    return _Parser().node(schema, "schema", "", 0)


def strict_json(text: str) -> object:
    """JSON without duplicate keys, NaN, Infinity or lone surrogates, at most 256 KiB."""
    try:
        size = len(text.encode())
        if size > SCHEMA_BYTES_MAX:
            _refuse("schema", f"is {size} bytes long; at most {SCHEMA_BYTES_MAX}")
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise SchemaRefused("schema", f"nests deeper than {DEPTH_MAX}") from None
    except ValueError:
        # UnicodeError and JSONDecodeError are ValueErrors; their texts would echo the input.
        raise SchemaRefused("schema", "is not well-formed JSON in UTF-8") from None
    return value


def branch_name(node: Node) -> str:
    """What tells the branches of a union apart: the full name, else the kind."""
    match node:
        case Record() | Enumeration() | Fixed():
            return node.name
        case _:
            return node.kind


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        _refuse("schema", "has an object with the same key twice")
    return result


def _no_constant(_: str) -> NoReturn:
    _refuse("schema", "holds NaN or Infinity, which JSON does not have")


def _refuse(path: str, rule: str) -> NoReturn:
    raise SchemaRefused(path, rule)


class _Parser:
    """One parse: the names seen so far; None marks a type whose definition is still open."""

    def __init__(self) -> None:
        self._names: dict[str, Named | None] = {}

    def node(self, schema: object, path: str, namespace: str, depth: int) -> Node:
        if depth > DEPTH_MAX:
            _refuse("schema", f"nests deeper than {DEPTH_MAX}")
        if isinstance(schema, str):
            return self._reference(schema, path, namespace)
        if isinstance(schema, list):
            return self._union(schema, path, namespace, depth)
        if isinstance(schema, dict):
            return self._object(schema, path, namespace, depth)
        _refuse(path, "is neither a type name, an object nor a list of types")

    def _reference(self, name: str, path: str, namespace: str) -> Node:
        if name in PRIMITIVES:
            return Primitive(kind=name)
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        if not _FULL_NAME.match(full) or full not in self._names:
            _refuse(path, "refers to a type that is not defined before it")
        found = self._names[full]
        if found is None:
            _refuse(path, "is recursive: the type contains itself")
        return found

    def _union(self, branches: list[object], path: str, namespace: str, depth: int) -> Union:
        if not branches:
            _refuse(path, "is a union without branches")
        nodes = [
            self.node(branch, f"{path}|{index}", namespace, depth + 1)
            for index, branch in enumerate(branches)
        ]
        if any(isinstance(node, Union) for node in nodes):
            _refuse(path, "is a union directly inside a union")
        names = [branch_name(node) for node in nodes]
        if len(set(names)) != len(names):
            _refuse(path, "is a union with the same type twice")
        return Union(branches=tuple(nodes), extent=_extent(nodes, path))

    def _object(self, schema: dict[str, object], path: str, namespace: str, depth: int) -> Node:
        kind = schema.get("type")
        if not isinstance(kind, str):
            _refuse(path, "has no type name under 'type'")
        if kind in _COMPLEX:
            return self._complex(kind, schema, path, namespace, depth)
        if kind in PRIMITIVES:
            return Primitive(kind=kind, properties=_properties(schema, {"type"}))
        if set(schema) - {"type"}:
            _refuse(path, "adds attributes to a type that it only refers to")
        return self._reference(kind, path, namespace)

    def _complex(
        self,
        kind: str,
        schema: dict[str, object],
        path: str,
        namespace: str,
        depth: int,
    ) -> Node:
        properties = _properties(schema, _ATTRIBUTES[kind])
        if kind == "array":
            items = self.node(schema.get("items"), f"{path}[]", namespace, depth + 1)
            extent = _extent([items], path)
            return ArrayOf(items=items, extent=extent, properties=properties)
        if kind == "map":
            values = self.node(schema.get("values"), f"{path}{{}}", namespace, depth + 1)
            extent = _extent([values], path)
            return MapOf(values=values, extent=extent, properties=properties)
        return self._named(kind, schema, path, namespace, depth, properties)

    def _named(
        self,
        kind: str,
        schema: dict[str, object],
        path: str,
        namespace: str,
        depth: int,
        properties: Properties,
    ) -> Named:
        full = _full_name(schema, path, namespace)
        if full in self._names:
            _refuse(path, "defines a name that is already defined")
        self._names[full] = None
        space, _, short = full.rpartition(".")
        inner = short if path == "schema" else path
        doc, aliases = _doc(schema, inner), _aliases(schema, inner)
        node: Named
        if kind == "record":
            fields = self._fields(schema, inner, space, depth)
            node = Record(
                name=full,
                fields=fields,
                extent=_extent([field.type for field in fields], inner),
                doc=doc,
                aliases=aliases,
                properties=properties,
            )
        elif kind == "enum":
            symbols, default = _symbols(schema, inner)
            node = Enumeration(
                name=full,
                symbols=symbols,
                default=default,
                doc=doc,
                aliases=aliases,
                properties=properties,
            )
        else:
            size = _size(schema, inner)
            node = Fixed(name=full, size=size, doc=doc, aliases=aliases, properties=properties)
        self._names[full] = node
        return node

    def _fields(
        self, schema: dict[str, object], path: str, namespace: str, depth: int
    ) -> tuple[Field, ...]:
        raw = schema.get("fields")
        if not isinstance(raw, list):
            _refuse(path, "is a record without a list of fields")
        fields = [
            self._field(field, path, index, namespace, depth) for index, field in enumerate(raw)
        ]
        names = [name for field in fields for name in (field.name, *field.aliases)]
        if len(set(names)) != len(names):
            _refuse(path, "has two fields of the same name or alias")
        return tuple(fields)

    def _field(self, raw: object, path: str, index: int, namespace: str, depth: int) -> Field:
        where = f"{path}.fields[{index}]"
        if not isinstance(raw, dict):
            _refuse(where, "is not an object")
        name = raw.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            _refuse(where, "has no valid name (letters, digits and _, no digit first)")
        where = f"{path}.{name}"
        order = raw.get("order", "ascending")
        if order not in ("ascending", "descending", "ignore"):
            _refuse(where, "has an order other than ascending, descending or ignore")
        return Field(
            name=name,
            type=self.node(raw.get("type"), where, namespace, depth + 1),
            has_default="default" in raw,
            default=raw.get("default"),
            doc=_doc(raw, where),
            order=order,
            aliases=_aliases(raw, where),
            properties=_properties(raw, _ATTRIBUTES["field"]),
        )


def _extent(children: list[Node], path: str) -> Extent:
    nodes = 1 + sum(child.extent.nodes for child in children)
    height = 1 + max((child.extent.height for child in children), default=0)
    if nodes > EXPANDED_NODES_MAX:
        _refuse(path, f"expands to more than {EXPANDED_NODES_MAX} types")
    if height > DEPTH_MAX:
        _refuse(path, f"nests deeper than {DEPTH_MAX} with all names written out")
    return Extent(nodes=nodes, height=height)


def _properties(schema: Mapping[str, object], attributes: frozenset[str] | set[str]) -> Properties:
    return tuple((key, value) for key, value in schema.items() if key not in attributes)


def _full_name(schema: dict[str, object], path: str, namespace: str) -> str:
    name, own = schema.get("name"), schema.get("namespace")
    if not isinstance(name, str) or not _FULL_NAME.match(name):
        _refuse(path, "has no valid name (letters, digits and _, no digit first)")
    if own is not None and (not isinstance(own, str) or (own and not _FULL_NAME.match(own))):
        _refuse(path, "has a namespace that is not dotted names")
    if name in PRIMITIVES or name in _COMPLEX:
        _refuse(path, "takes the name of a built-in type")
    if "." in name:
        return name
    space = namespace if own is None else own
    return f"{space}.{name}" if space else name


def _doc(schema: dict[str, object], path: str) -> str | None:
    doc = schema.get("doc")
    if doc is not None and not isinstance(doc, str):
        _refuse(path, "has a doc that is not a string")
    return doc


def _aliases(schema: dict[str, object], path: str) -> tuple[str, ...]:
    aliases = schema.get("aliases", [])
    if not isinstance(aliases, list) or not all(
        isinstance(alias, str) and _FULL_NAME.match(alias) for alias in aliases
    ):
        _refuse(path, "has aliases that are not a list of names")
    return tuple(aliases)


def _symbols(schema: dict[str, object], path: str) -> tuple[tuple[str, ...], str | None]:
    symbols, default = schema.get("symbols"), schema.get("default")
    if not isinstance(symbols, list) or not symbols:
        _refuse(path, "is an enum without symbols")
    if not all(isinstance(symbol, str) and _NAME.match(symbol) for symbol in symbols):
        _refuse(path, "has an enum symbol that is not a valid name")
    if len(set(symbols)) != len(symbols):
        _refuse(path, "has the same enum symbol twice")
    if default is not None and default not in symbols:
        _refuse(path, "has an enum default that is not one of its symbols")
    return tuple(symbols), default if isinstance(default, str) else None


def _size(schema: dict[str, object], path: str) -> int:
    size = schema.get("size")
    if not isinstance(size, int) or isinstance(size, bool):
        _refuse(path, "is a fixed without a whole number as size")
    if not 0 <= size <= FIXED_BYTES_MAX:
        _refuse(path, f"is a fixed whose size is not between 0 and {FIXED_BYTES_MAX}")
    return size
