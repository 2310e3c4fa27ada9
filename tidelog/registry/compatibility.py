"""Whether a new version of a schema may join a subject, by Confluent's seven levels.

Pure. Three judges look at each pair of versions; the first two name path and rule:
1. the resolution rules of the Avro specification (can this reader read that writer);
2. lints for changes that resolution allows and that silently change the meaning of stored
   bytes: a decimal's scale or precision, a logical type, a full name, a removed enum symbol;
3. Apache Avro's own checker, as a second opinion where the first two found nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import avro.errors
import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from tidelog.registry.canonical import bare
from tidelog.registry.model import (
    ArrayOf,
    Enumeration,
    Field,
    Fixed,
    MapOf,
    Node,
    Record,
    Union,
    branch_name,
)

LEVELS = (
    "NONE",
    "BACKWARD",
    "BACKWARD_TRANSITIVE",
    "FORWARD",
    "FORWARD_TRANSITIVE",
    "FULL",
    "FULL_TRANSITIVE",
)
MESSAGES_MAX = 20

Version: TypeAlias = tuple[int, Node]

# Avro's checker has no annotations; this name gives its constructor one.
_avro_checker: Callable[[], ReaderWriterCompatibilityChecker] = ReaderWriterCompatibilityChecker

# Reader kind → the other kinds that it reads by promotion.
_PROMOTIONS: dict[str, frozenset[str]] = {
    "long": frozenset({"int"}),
    "float": frozenset({"int", "long"}),
    "double": frozenset({"int", "long", "float"}),
    "bytes": frozenset({"string"}),
    "string": frozenset({"bytes"}),
}


def default_level(subject: str) -> str:
    """Events are kept for ever and read by all; commands live for days; the rest as Confluent."""
    topic = subject.rpartition("-")[0]
    if topic.endswith(".events"):
        return "FULL_TRANSITIVE"
    if topic.endswith(".commands"):
        return "BACKWARD_TRANSITIVE"
    return "BACKWARD"


def incompatibilities(level: str, newer: Node, older: Sequence[Version]) -> list[str]:
    """Why `newer` may not follow the `older` versions (oldest first); [] if it may."""
    assert level in LEVELS, "levels are checked where they enter"
    if level == "NONE":
        return []
    judged = older if level.endswith("_TRANSITIVE") else older[-1:]
    found = (
        message
        for version, node in reversed(judged)
        for message in _judge(level.removesuffix("_TRANSITIVE"), newer, node, version)
    )
    return list(islice(dict.fromkeys(found), MESSAGES_MAX))


def _judge(level: str, newer: Node, older: Node, version: int) -> Iterator[str]:
    path = branch_name(newer).rpartition(".")[2]
    for problem in _changes(older, newer, path):
        yield f"version {version}: {problem}"
    if level in ("BACKWARD", "FULL"):
        for problem in _reads(newer, older, path):
            yield f"the new schema cannot read version {version}: {problem}"
    if level in ("FORWARD", "FULL"):
        for problem in _reads(older, newer, path):
            yield f"version {version} cannot read the new schema: {problem}"


def _reads(reader: Node, writer: Node, path: str) -> list[str]:
    return list(_resolve(reader, writer, path)) or _second_opinion(reader, writer)


def _second_opinion(reader: Node, writer: Node) -> list[str]:
    try:
        result = _avro_checker().get_compatibility(
            avro.schema.parse(bare(reader)), avro.schema.parse(bare(writer))
        )
    except avro.errors.AvroException as error:
        return [f"schema: Apache Avro does not accept it ({type(error).__name__})"]
    if result.compatibility is SchemaCompatibilityType.compatible:
        return []
    return [f"{', '.join(sorted(result.locations))}: {', '.join(sorted(result.messages))}"]


def _resolve(reader: Node, writer: Node, path: str) -> Iterator[str]:
    """Avro's schema resolution, stricter in one point: names must match in full."""
    if isinstance(writer, Union):
        for branch in writer.branches:
            yield from _resolve(reader, branch, path)
    elif isinstance(reader, Union):
        yield from _resolve_branch(reader, writer, path)
    elif reader.kind != writer.kind:
        if writer.kind not in _PROMOTIONS.get(reader.kind, ()):
            yield f"{path}: written as {writer.kind}, read as {reader.kind}"
    else:
        yield from _resolve_same_kind(reader, writer, path)


def _resolve_branch(reader: Union, writer: Node, path: str) -> Iterator[str]:
    for branch in reader.branches:
        if branch_name(branch) == branch_name(writer):
            yield from _resolve(branch, writer, path)
            return
    if not any(_reads_whole(branch, writer) for branch in reader.branches):
        yield f"{path}: the reader's union has no branch for {branch_name(writer)}"


def _reads_whole(reader: Node, writer: Node) -> bool:
    return next(_resolve(reader, writer, ""), None) is None


def _resolve_same_kind(reader: Node, writer: Node, path: str) -> Iterator[str]:
    match reader, writer:
        case Record(), Record():
            yield from _same_name(reader.name, writer.name, path)
            yield from _resolve_fields(reader, writer, path)
        case Enumeration(), Enumeration():
            yield from _same_name(reader.name, writer.name, path)
            yield from _resolve_symbols(reader, writer, path)
        case Fixed(), Fixed():
            yield from _same_name(reader.name, writer.name, path)
            if reader.size != writer.size:
                yield f"{path}: fixed of {writer.size} bytes, read as {reader.size} bytes"
        case ArrayOf(), ArrayOf():
            yield from _resolve(reader.items, writer.items, f"{path}[]")
        case MapOf(), MapOf():
            yield from _resolve(reader.values, writer.values, f"{path}{{}}")


def _same_name(reader: str, writer: str, path: str) -> Iterator[str]:
    if reader != writer:
        yield f"{path}: written as {writer}, read as {reader}"


def _resolve_symbols(reader: Enumeration, writer: Enumeration, path: str) -> Iterator[str]:
    missing = [symbol for symbol in writer.symbols if symbol not in reader.symbols]
    if missing and reader.default is None:
        yield f"{path}: the reader's enum has no default and lacks {', '.join(missing)}"


def _resolve_fields(reader: Record, writer: Record, path: str) -> Iterator[str]:
    written = {field.name: field for field in writer.fields}
    for field in reader.fields:
        source = _source(field, written)
        if source is not None:
            yield from _resolve(field.type, source.type, f"{path}.{field.name}")
        elif not field.has_default:
            yield f"{path}.{field.name}: the writer has no such field, the reader no default"


def _source(field: Field, written: dict[str, Field]) -> Field | None:
    names = (field.name, *field.aliases)
    return next((written[name] for name in names if name in written), None)


def _changes(older: Node, newer: Node, path: str) -> Iterator[str]:
    """Changes of meaning from one version to the next, whatever resolution says."""
    if isinstance(older, Union) or isinstance(newer, Union):
        yield from _union_changes(older, newer, path)
        return
    if _meaning(older) != _meaning(newer):
        yield f"{path}: logical type changed from {_said(older)} to {_said(newer)}"
    match older, newer:
        case Record(), Record():
            yield from _same_full_name(older.name, newer.name, path)
            yield from _field_changes(older, newer, path)
        case Enumeration(), Enumeration():
            yield from _same_full_name(older.name, newer.name, path)
            yield from _symbol_changes(older, newer, path)
        case Fixed(), Fixed():
            yield from _same_full_name(older.name, newer.name, path)
        case ArrayOf(), ArrayOf():
            yield from _changes(older.items, newer.items, f"{path}[]")
        case MapOf(), MapOf():
            yield from _changes(older.values, newer.values, f"{path}{{}}")


def _same_full_name(older: str, newer: str, path: str) -> Iterator[str]:
    if older != newer:
        yield f"{path}: full name changed from {older} to {newer}"


def _field_changes(older: Record, newer: Record, path: str) -> Iterator[str]:
    earlier = {field.name: field for field in older.fields}
    for field in newer.fields:
        source = _source(field, earlier)
        if source is not None:
            yield from _changes(source.type, field.type, f"{path}.{field.name}")


def _symbol_changes(older: Enumeration, newer: Enumeration, path: str) -> Iterator[str]:
    removed = [symbol for symbol in older.symbols if symbol not in newer.symbols]
    if removed:
        yield f"{path}: enum symbols removed or renamed: {', '.join(removed)}"


def _union_changes(older: Node, newer: Node, path: str) -> Iterator[str]:
    earlier = {branch_name(branch): branch for branch in _branches(older)}
    for branch in _branches(newer):
        if branch_name(branch) in earlier:
            yield from _changes(earlier[branch_name(branch)], branch, path)


def _branches(node: Node) -> tuple[Node, ...]:
    return node.branches if isinstance(node, Union) else (node,)


def _meaning(node: Node) -> tuple[object, object, object]:
    """The logical type with a decimal's precision and scale; (None, …) if there is none."""
    properties = dict(node.properties)
    logical = properties.get("logicalType")
    if logical != "decimal":
        return logical, None, None
    return logical, properties.get("precision"), properties.get("scale", 0)


def _said(node: Node) -> str:
    logical, precision, scale = _meaning(node)
    if logical is None:
        return f"none ({node.kind})"
    return f"decimal({precision}, {scale})" if logical == "decimal" else str(logical)
