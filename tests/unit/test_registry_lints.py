"""What a schema must satisfy before it is registered or used to decode untrusted bytes."""

from __future__ import annotations

import json

import pytest

from tidelog.errors import CodecError
from tidelog.registry.canonical import canonical, fingerprint, guid
from tidelog.registry.errors import SchemaRefused
from tidelog.registry.lints import check_schema, checked_text

ORDER_PLACED: dict[str, object] = {
    "type": "record",
    "name": "OrderPlaced",
    "namespace": "tidelog.orders",
    "fields": [
        {"name": "order_id", "type": "string"},
        {
            "name": "total",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 20},
        },
        {"name": "note", "type": ["null", "string"], "default": None},
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Line",
                    "fields": [{"name": "quantity", "type": "int", "default": 1}],
                },
            },
        },
    ],
}


def record(*types: object) -> dict[str, object]:
    fields = [{"name": f"f{index}", "type": type_} for index, type_ in enumerate(types)]
    return {"type": "record", "name": "R", "fields": fields}


def field(type_: object, **attributes: object) -> dict[str, object]:
    return {
        "type": "record",
        "name": "R",
        "fields": [{"name": "f", "type": type_, **attributes}],
    }


def chain(length: int) -> list[object]:
    """Records that each hold the one before twice: 2^length values in no bytes."""
    first = {"type": "record", "name": "R0", "fields": []}
    return [first] + [
        {
            "type": "record",
            "name": f"R{n}",
            "fields": [
                {"name": "a", "type": f"R{n - 1}"},
                {"name": "b", "type": f"R{n - 1}"},
            ],
        }
        for n in range(1, length)
    ]


def nested(depth: int) -> object:
    schema: object = "int"
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def test_an_ordinary_event_is_accepted() -> None:
    check_schema(ORDER_PLACED)


REFUSED: list[tuple[str, object, str, str]] = [
    ("an unknown type", field("strnig"), "R.f", "not defined"),
    ("a recursive record", field(["null", "R"]), "R.f|1", "recursive"),
    ("an array of nulls", field({"type": "array", "items": "null"}), "R.f", "no bytes"),
    ("a map of nulls", field({"type": "map", "values": "null"}), "R.f", "no bytes"),
    (
        "an array of empty records",
        field({"type": "array", "items": {"type": "record", "name": "E", "fields": []}}),
        "R.f",
        "no bytes",
    ),
    (
        "an array of records of nothing",
        field({"type": "array", "items": field("null") | {"name": "E"}}),
        "R.f",
        "no bytes",
    ),
    (
        "an array of fixed of size 0",
        field({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}),
        "R.f",
        "no bytes",
    ),
    (
        "an unknown logical type",
        field({"type": "long", "logicalType": "timestamp-secs"}),
        "R.f",
        "unknown logical type",
    ),
    (
        "a logical type on the wrong type",
        field({"type": "string", "logicalType": "date"}),
        "R.f",
        "belongs on int",
    ),
    (
        "a logical type beside the type",
        field("long", logicalType="date"),
        "R.f",
        "beside",
    ),
    (
        "a decimal without precision",
        field({"type": "bytes", "logicalType": "decimal"}),
        "R.f",
        "precision",
    ),
    (
        "a decimal with more scale than precision",
        field({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}),
        "R.f",
        "scale",
    ),
    (
        "a decimal that its fixed cannot hold",
        field(
            {
                "type": "fixed",
                "name": "F",
                "size": 2,
                "logicalType": "decimal",
                "precision": 5,
            }
        ),
        "R.f",
        "cannot hold",
    ),
    ("a string as default of an int", field("int", default="7"), "R.f", "valid int"),
    ("true as default of an int", field("int", default=True), "R.f", "valid int"),
    ("a default beyond int", field("int", default=2**31), "R.f", "valid int"),
    (
        "a default of a union's second type",
        field(["null", "string"], default="x"),
        "R.f",
        "first type",
    ),
    (
        "a default that is not a symbol",
        field({"type": "enum", "name": "E", "symbols": ["A"]}, default="B"),
        "R.f",
        "valid enum",
    ),
    (
        "a default of a record without a required field",
        field(field("int") | {"name": "E"}, default={}),
        "R.f",
        "valid record",
    ),
    (
        "a default of bytes beyond U+00FF",
        field("bytes", default="Ā"),
        "R.f",
        "valid bytes",
    ),
    ("an empty union", field([]), "R.f", "without branches"),
    ("a union with a type twice", field(["int", "int"]), "R.f", "same type twice"),
    (
        "an enum without symbols",
        {"type": "enum", "name": "E", "symbols": []},
        "E",
        "symbols",
    ),
    (
        "an enum symbol twice",
        {"type": "enum", "name": "E", "symbols": ["A", "A"]},
        "E",
        "twice",
    ),
    (
        "a field twice",
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}] * 2},
        "R",
        "two fields",
    ),
    ("a name that is none", field("int") | {"name": "1-x"}, "schema", "valid name"),
    ("types nested without end", nested(100_000), "schema", "nests"),
    ("types nested too deep", nested(65), "schema", "nests deeper"),
    ("small schemas that expand to 2^60 values", chain(60), "schema|", "expands"),
    (
        "names that nest too deep",
        [
            {"type": "record", "name": "R0", "fields": []},
            *(record(f"R{n - 1}") | {"name": f"R{n}"} for n in range(1, 70)),
        ],
        "schema",
        "nests deeper",
    ),
    ("a schema of 1 MB", field("int", doc="x" * 1_000_000), "schema", "bytes long"),
    ("a lone surrogate", field("int", doc="\ud800"), "schema", "UTF-8"),
    ("what is not JSON", object(), "schema", "JSON"),
]


@pytest.mark.parametrize(
    ("schema", "path", "rule"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_a_schema_that_breaks_a_rule_is_refused_by_path_and_rule(
    schema: object, path: str, rule: str
) -> None:
    with pytest.raises(SchemaRefused) as refused:
        check_schema(schema)
    assert refused.value.path.startswith(path)
    assert rule in refused.value.rule
    assert isinstance(refused.value, CodecError)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"type":"int","type":"long"}',
        '{"type":"int","x":NaN}',
        '{"type":"int","x":1e400}',
        '"' + "9" * 10_000,
        "9" * 5_000,
    ],
)
def test_a_text_that_is_not_strict_json_is_refused(text: str) -> None:
    with pytest.raises(SchemaRefused):
        checked_text(text)


def test_a_refusal_never_repeats_a_value_of_the_input() -> None:
    with pytest.raises(SchemaRefused) as refused:
        check_schema(field("int", default="<script>", doc="secret"))
    assert "script" not in str(refused.value) and "secret" not in str(refused.value)


def test_white_space_and_needless_namespaces_do_not_make_another_schema() -> None:
    spelled = json.loads(json.dumps(ORDER_PLACED))
    spelled["name"] = "tidelog.orders.OrderPlaced"
    del spelled["namespace"]
    spelled["fields"][0]["type"] = {"type": "string"}
    plain, other = json.dumps(ORDER_PLACED), json.dumps(spelled, indent=2)
    assert canonical(checked_text(plain)) == canonical(checked_text(other))
    assert fingerprint(plain) == fingerprint(other)


def test_docs_and_defaults_make_another_schema() -> None:
    plain, documented = field("int"), field("int", doc="how many")
    assert fingerprint(json.dumps(plain)) != fingerprint(json.dumps(documented))
    assert fingerprint(json.dumps(plain)) != fingerprint(json.dumps(field("int", default=0)))


def test_the_order_of_properties_matters_to_the_text_but_not_to_the_fingerprint() -> None:
    one = '{"type":"string","a":1,"b":2}'
    two = '{"type":"string","b":2,"a":1}'
    assert canonical(checked_text(one)) != canonical(checked_text(two))
    assert fingerprint(one) == fingerprint(two)


def test_a_canonical_text_is_its_own_canonical_text_and_names_types_once() -> None:
    line = {"type": "fixed", "name": "Hash", "namespace": "x", "size": 4}
    text = canonical(checked_text(json.dumps(record(line, "x.Hash"))))
    assert canonical(checked_text(text)) == text
    assert text.count('"size"') == 1 and '"x.Hash"' in text


def test_a_guid_depends_on_the_text_alone() -> None:
    assert guid('"string"') == guid('"string"') != guid('"int"')
