"""The one text of a schema, its fingerprint and its GUID.

`canonical` writes a schema as Confluent's registry stores it: white space, the order of
attributes and needless namespaces do not matter, while docs, defaults, aliases and properties
do. Two schemas with the same canonical text are the same schema and share one id.
`normal_form` also sorts the properties (`?normalize=true`); fingerprints are taken of it.
"""

from __future__ import annotations

import hashlib
import json
import uuid

from tidelog.registry.model import (
    ArrayOf,
    Enumeration,
    Field,
    Fixed,
    MapOf,
    Named,
    Node,
    Primitive,
    Properties,
    Record,
    Union,
    parse_text,
)


def canonical(node: Node) -> str:
    """The text under which the registry keeps a schema."""
    return _text(_Writer().node(node, ""))


def normal_form(node: Node) -> str:
    """The canonical text with the properties in alphabetical order."""
    return _text(_Writer(sort=True).node(node, ""))


def bare(node: Node) -> str:
    """The canonical text without properties: what Avro's own resolution rules look at."""
    return _text(_Writer(keep_properties=False).node(node, ""))


def fingerprint(schema_json: str) -> str:
    """SHA-256 (hex) of the normal form: equal for texts of the same schema."""
    return hashlib.sha256(normal_form(parse_text(schema_json)).encode()).hexdigest()


def guid(canonical_text: str) -> str:
    """A UUID made of the canonical text alone, so the same in every registry of this kind."""
    digest = hashlib.md5(canonical_text.encode(), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest, version=3))


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Writer:
    """Writes each named type in full once and by reference afterwards."""

    def __init__(self, *, sort: bool = False, keep_properties: bool = True) -> None:
        self._sort = sort
        self._keep_properties = keep_properties
        self._written: set[str] = set()

    def node(self, node: Node, namespace: str) -> object:
        match node:
            case Primitive():
                properties = self._properties(node.properties)
                return {"type": node.kind, **properties} if properties else node.kind
            case ArrayOf():
                items = self.node(node.items, namespace)
                return {"type": "array", "items": items} | self._properties(node.properties)
            case MapOf():
                values = self.node(node.values, namespace)
                return {"type": "map", "values": values} | self._properties(node.properties)
            case Union():
                return [self.node(branch, namespace) for branch in node.branches]
            case Record() | Enumeration() | Fixed():
                return self._named(node, namespace)

    def _named(self, node: Named, namespace: str) -> object:
        space, _, short = node.name.rpartition(".")
        if node.name in self._written:
            return short if space == namespace else node.name
        self._written.add(node.name)
        written: dict[str, object] = {"type": node.kind, "name": short}
        if space != namespace:
            written["namespace"] = space
        if node.doc is not None:
            written["doc"] = node.doc
        written |= self._body(node, space)
        written |= self._properties(node.properties)
        if node.aliases:
            written["aliases"] = list(node.aliases)
        return written

    def _body(self, node: Named, namespace: str) -> dict[str, object]:
        match node:
            case Record():
                return {"fields": [self._field(field, namespace) for field in node.fields]}
            case Enumeration():
                default = {} if node.default is None else {"default": node.default}
                return {"symbols": list(node.symbols), **default}
            case Fixed():
                return {"size": node.size}

    def _field(self, field: Field, namespace: str) -> dict[str, object]:
        written: dict[str, object] = {
            "name": field.name,
            "type": self.node(field.type, namespace),
        }
        if field.doc is not None:
            written["doc"] = field.doc
        if field.has_default:
            written["default"] = field.default
        if field.order != "ascending":
            written["order"] = field.order
        if field.aliases:
            written["aliases"] = list(field.aliases)
        return written | self._properties(field.properties)

    def _properties(self, properties: Properties) -> dict[str, object]:
        if not self._keep_properties:
            return {}
        return dict(sorted(properties) if self._sort else properties)
