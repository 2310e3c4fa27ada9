"""Which changes of a schema each compatibility level allows."""

from __future__ import annotations

import pytest

from tidelog.registry.compatibility import default_level, incompatibilities
from tidelog.registry.model import parse_schema

A: dict[str, object] = {"name": "a", "type": "int"}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}


def record(*fields: dict[str, object], name: str = "t.R") -> dict[str, object]:
    return {"type": "record", "name": name, "fields": list(fields)}


def of(type_: object) -> dict[str, object]:
    return record({"name": "f", "type": type_})


def enum(*symbols: str, **attributes: object) -> dict[str, object]:
    return {"type": "enum", "name": "t.E", "symbols": list(symbols), **attributes}


def judged(level: str, *versions: object) -> list[str]:
    """The messages about the last version after the others."""
    *older, newer = [parse_schema(version) for version in versions]
    return incompatibilities(level, newer, list(enumerate(older, start=1)))


B_WITH: dict[str, object] = {"name": "b", "type": "int", "default": 0}
B_WITHOUT: dict[str, object] = {"name": "b", "type": "int"}

# What is changed, before, after, and the levels that allow it.
CHANGES: list[tuple[str, object, object, set[str]]] = [
    ("nothing", record(A), record(A), {"BACKWARD", "FORWARD", "FULL"}),
    (
        "field with default added",
        record(A),
        record(A, B_WITH),
        {"BACKWARD", "FORWARD", "FULL"},
    ),
    ("field without default added", record(A), record(A, B_WITHOUT), {"FORWARD"}),
    ("field without default removed", record(A, B_WITHOUT), record(A), {"BACKWARD"}),
    ("int to long", of("int"), of("long"), {"BACKWARD"}),
    ("long to int", of("long"), of("int"), {"FORWARD"}),
    ("int to string", of("int"), of("string"), set()),
    ("made nullable", of("int"), of(["null", "int"]), {"BACKWARD"}),
    ("branch removed", of(["null", "int"]), of(["null"]), {"FORWARD"}),
    (
        "symbol added without default",
        of(enum("A")),
        of(enum("A", "B")),
        {"BACKWARD"},
    ),
    (
        "symbol added with default",
        of(enum("A", default="A")),
        of(enum("A", "B", default="A")),
        {"BACKWARD", "FORWARD", "FULL"},
    ),
    (
        "field renamed with alias",
        record(A),
        record(A | {"name": "z", "aliases": ["a"]}),
        {"BACKWARD"},
    ),
]
LEVELS = ("BACKWARD", "FORWARD", "FULL")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [row[1:] for row in CHANGES],
    ids=[row[0] for row in CHANGES],
)
def test_a_level_allows_what_its_readers_can_read(
    before: object, after: object, allowed: set[str], level: str
) -> None:
    assert (judged(level, before, after) == []) is (level in allowed)


# What resolution, or Avro's own checker, wrongly lets pass.
MEANINGS: list[tuple[str, object, object, str]] = [
    ("scale", of(DECIMAL), of(DECIMAL | {"scale": 3}), "R.f: logical type changed"),
    (
        "precision",
        of(DECIMAL),
        of(DECIMAL | {"precision": 9}),
        "R.f: logical type changed",
    ),
    (
        "unit of time",
        of({"type": "long", "logicalType": "timestamp-millis"}),
        of({"type": "long", "logicalType": "timestamp-micros"}),
        "from timestamp-millis to timestamp-micros",
    ),
    (
        "logical type added",
        of("long"),
        of({"type": "long", "logicalType": "time-micros"}),
        "none",
    ),
    (
        "inside a union",
        of(["null", DECIMAL]),
        of(["null", DECIMAL | {"scale": 1}]),
        "decimal(10, 2) to decimal(10, 1)",
    ),
    (
        "namespace",
        record(A),
        record(A, name="u.R"),
        "full name changed from t.R to u.R",
    ),
    (
        "symbol removed in spite of a default",
        of(enum("A", "B", default="A")),
        of(enum("A", default="A")),
        "enum symbols removed or renamed: B",
    ),
    (
        "symbol renamed",
        of({"type": "array", "items": enum("A", "B", default="A")}),
        of({"type": "array", "items": enum("A", "C", default="A")}),
        "R.f[]: enum symbols removed or renamed: B",
    ),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("before", "after", "said"),
    [row[1:] for row in MEANINGS],
    ids=[row[0] for row in MEANINGS],
)
def test_a_change_of_meaning_is_refused_at_every_level(
    before: object, after: object, said: str, level: str
) -> None:
    assert any(said in message for message in judged(level, before, after))
    assert judged("NONE", before, after) == []


def test_only_transitive_levels_look_behind_the_latest_version() -> None:
    # b was an int, was dropped, and comes back as a string: version 2 does not mind.
    versions = (
        record(A, B_WITH),
        record(A),
        record(A, {"name": "b", "type": "string", "default": ""}),
    )
    assert judged("FULL", *versions) == []
    assert all("version 1" in message for message in judged("FULL_TRANSITIVE", *versions))
    assert judged("BACKWARD_TRANSITIVE", *versions)
    assert judged("FORWARD_TRANSITIVE", *versions)


def test_messages_name_the_version_the_path_and_the_rule() -> None:
    line = record({"name": "quantity", "type": "int"}, name="t.Line")
    wide = record({"name": "quantity", "type": "string"}, name="t.Line")
    before, after = (
        of({"type": "array", "items": line}),
        of({"type": "array", "items": wide}),
    )
    assert judged("BACKWARD", before, after) == [
        "the new schema cannot read version 1: R.f[].quantity: written as int, read as string"
    ]


@pytest.mark.parametrize(
    ("subject", "level"),
    [
        ("orders.events-tidelog.orders.OrderPlaced", "FULL_TRANSITIVE"),
        ("a-prefix.orders.events-tidelog.orders.OrderPlaced", "FULL_TRANSITIVE"),
        ("orders.commands-tidelog.orders.PlaceOrder", "BACKWARD_TRANSITIVE"),
        ("orders.events-value", "FULL_TRANSITIVE"),
        ("clicks-value", "BACKWARD"),
        ("orders.events", "BACKWARD"),
    ],
)
def test_a_subject_of_events_or_commands_has_a_level_by_its_name(subject: str, level: str) -> None:
    assert default_level(subject) == level
