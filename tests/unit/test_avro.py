"""The annotations are the schema: what Avro says for them, and what it cannot say."""

from __future__ import annotations

import enum
import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from schemas import CONTEXTS
from tests.unit.codec_sample import Colour, Everything, Painted
from tidelog.avro import Scale, avro_schema
from tidelog.errors import DefinitionError
from tidelog.message import Event, Id, Message
from tidelog.registry import check_schema


def fields_of(message: type[Message]) -> dict[str, Any]:
    schema = avro_schema(message, f"tidelog.sample.{message.__name__}")
    return {field["name"]: field for field in schema["fields"]}


def types_of(message: type[Message]) -> dict[str, Any]:
    return {name: field["type"] for name, field in fields_of(message).items()}


def one_field(kind: Any, **default: Any) -> Any:
    """A message `Odd` with one field `field` of this type."""
    field = ("field", kind, default["default"]) if default else ("field", kind)
    return made([field])


def made(fields: Any) -> Any:
    """A message `Odd` with these fields."""
    return msgspec.defstruct("Odd", fields, bases=(Event,), frozen=True, kw_only=True)


def refusal(kind: Any, **default: Any) -> str:
    with pytest.raises(DefinitionError) as refused:
        avro_schema(one_field(kind, **default), "tidelog.sample.Odd")
    return str(refused.value)


# --- What is said ---------------------------------------------------------------------------------


def test_every_type_has_its_form() -> None:
    point = types_of(Everything)["point"]
    plain = {"id", "flag", "count", "share", "raw", "at", "day", "clock", "token", "price", "note"}

    assert {name: kind for name, kind in types_of(Everything).items() if name in plain} == {
        "id": "string",
        "flag": "boolean",
        "count": "long",
        "share": "double",
        "raw": "bytes",
        "at": {"type": "long", "logicalType": "timestamp-micros"},
        "day": {"type": "int", "logicalType": "date"},
        "clock": {"type": "long", "logicalType": "time-micros"},
        "token": {"type": "string", "logicalType": "uuid"},
        "price": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2},
        "note": ["null", "string"],
    }
    assert point["name"] == "Point"
    assert point["doc"] == "A place."


def test_a_named_type_is_written_once_and_named_afterwards() -> None:
    kinds = types_of(Everything)

    assert kinds["points"] == {"type": "array", "items": "tidelog.sample.Point"}


def test_enums_take_their_class_and_literals_their_place_as_name() -> None:
    kinds = types_of(Everything)

    assert kinds["colour"] == {"type": "enum", "name": "Colour", "symbols": ["red", "green"]}
    assert kinds["size"]["name"] == "EverythingSize"
    assert kinds["size"]["symbols"] == ["large", "small"]


def test_a_tagged_struct_says_its_tag_in_its_first_field() -> None:
    null, card, cash = types_of(Everything)["paid"]

    assert null == "null"
    assert card["fields"][0]["type"] == {"type": "enum", "name": "CardKind", "symbols": ["card"]}
    assert cash["fields"][0]["name"] == "kind"


def test_defaults_come_from_the_fields() -> None:
    fields = fields_of(Painted)

    assert "default" not in fields["litres"]
    assert fields["colour"]["default"] == "red"
    assert fields["corner"]["default"] == {"x": 1, "y": 0}
    assert fields["tags"]["default"] == []
    assert fields["note"]["default"] is None


def test_an_optional_field_has_the_default_null_even_where_the_type_has_none() -> None:
    assert fields_of(one_field(str | None))["field"]["default"] is None


def test_the_branch_of_the_default_comes_first() -> None:
    field = fields_of(one_field(int | None, default=5))["field"]

    assert field == {"name": "field", "type": ["long", "null"], "default": 5}


def test_documentation_is_the_docstring_on_one_line() -> None:
    class Documented(Event):
        """One sentence.

        And another.
        """

        id: Id

    class Silent(Event):
        id: Id

    assert avro_schema(Documented, "a.Documented")["doc"] == "One sentence. And another."
    assert "doc" not in avro_schema(Silent, "a.Silent")


def test_the_same_type_gives_the_same_text() -> None:
    name = "tidelog.sample.Everything"
    texts = {json.dumps(avro_schema(Everything, name)) for _ in range(3)}

    assert len(texts) == 1


def test_every_message_of_the_shop_has_a_schema_that_the_registry_takes() -> None:
    for context in CONTEXTS:
        for message in (*context.event_types, *context.command_types):
            check_schema(avro_schema(message, context.full_name(message)))
    check_schema(avro_schema(Everything, "tidelog.sample.Everything"))
    check_schema(avro_schema(Painted, "tidelog.sample.Painted"))


# --- What cannot be said --------------------------------------------------------------------------


class Tree(Message):
    """It contains itself."""

    left: Tree | None = None


class Left(Message):
    """It contains Right."""

    right: Right | None


class Right(Message):
    """It contains Left."""

    left: Left | None


class Empty(Message):
    """It has no field."""


class Number(enum.IntEnum):
    """Values that are no text."""

    ONE = 1


class Listed(Message, array_like=True):
    """A record without names."""

    x: int


class Sparse(Message, omit_defaults=True):
    """Not always all fields."""

    x: int = 0


class Unheard(Message):
    """A field that Avro cannot name."""

    x: int = msgspec.field(name="x-1")


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (Tree, "recursive"),
        (Left, "recursive"),
        (tuple[Empty, ...], "no bytes"),
        (list[None], "no bytes"),
        (dict[str, Empty], "no bytes"),
        (dict, "keys"),
        (list, "any"),
        (Any, "any"),
        (dict[int, str], "keys"),
        (set[str], "set"),
        (tuple[int, str], "tuple"),
        (timedelta, "timedelta"),
        (msgspec.Raw, "raw"),
        (Decimal, "Scale"),
        (Annotated[Decimal, Scale(precision=0, scale=0)], "precision"),
        (Annotated[Decimal, Scale(precision=2, scale=3)], "scale"),
        (datetime, "tz=True"),
        (Annotated[datetime, Meta(tz=False)], "tz=True"),
        (time, "tz=False"),
        (Literal["two words"], "symbols"),
        (Literal[1, 2], "symbols"),
        (Number, "symbols"),
        (Annotated[int, Meta(le=2**63)], "int64"),
        (Annotated[int, Meta(ge=-(2**63) - 1)], "int64"),
        (Listed, "array_like"),
        (Sparse, "omits"),
        (Unheard, "name"),
    ],
)
def test_what_avro_cannot_say_is_refused_by_name(kind: Any, word: str) -> None:
    text = refusal(kind)

    assert word in text
    assert text.split(".")[0].split()[0] in {
        "Odd", "Tree", "Left", "Right", "Listed", "Sparse", "Unheard",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        (bytes, b"\x00"),
        (date, date(2026, 1, 1)),
        (Annotated[Decimal, Scale(precision=3, scale=1)], Decimal("1.5")),
        (float, float("nan")),
        (int, 2**63),
        (int | None, "text"),
    ],
)
def test_a_default_that_readers_would_read_differently_is_refused(kind: Any, default: Any) -> None:
    assert "Odd.field has a default" in refusal(kind, default=default)


def test_a_computed_default_is_refused() -> None:
    assert "computed" in refusal(str, default=msgspec.field(default_factory=lambda: "now"))


def namesake() -> Any:
    class Colour(enum.Enum):
        BLUE = "blue"

    return Colour


def test_two_types_of_one_name_are_refused() -> None:

    with pytest.raises(DefinitionError, match=r"Odd\.b needs the name Colour"):
        avro_schema(made([("a", Colour), ("b", namesake())]), "tidelog.sample.Odd")
