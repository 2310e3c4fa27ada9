"""The reader of an Avro record: a function whose source is written for the record's fields.

Reading is most of what a projector does, and walking over lists of fields, with a call for each,
was most of reading. So each record gets straight code, as dataclasses and attrs do it: one
statement per field, with short texts, numbers and lists, optional values and records within records
in place. For a record of a text and a list of numbers:

    def read(data, at):
        place = 0
        try:
            # order_id
            size = data[at]
            if size & 129:
                v1, at = r1(data, at)
            else:
                start = at + 1
                at = start + (size >> 1)
                v1 = data[start:at].decode()
                if NUL in v1:
                    raise ValueError("NUL is no text")
            place = 1
            # quantities
            size = data[at]
            if size & 129 or not size or size >> 1 >= len(data) - at:
                v2, at = r2(data, at)
            else:
                begun2, at, v2 = at, at + 1, []
                for _ in range(size >> 1):
                    … v3, as above …
                    v2.append(v3)
                if data[at]:
                    v2, at = r2(data, begun2)
                else:
                    at += 1
                    v2 = make2(v2)
            v0 = type0(order_id=v1, quantities=v2)
        except FAULTS as fault:
            raise CodecError(f"{places[place]}: {reason(fault)}") from None
        return v0, at

What is longer or odder than that goes to the reader of its type, which has the last word. The names
of fields are all of a schema that gets into the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, NamedTuple, TypeAlias

from tidelog.errors import CodecError

Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]
"""(bytes, where) → (value, where it ends)."""

NESTED_MAX = 8
"""How deep lists and optional values are written in place; Python nests 20 blocks."""

VALUES_MAX = 256
"""How many values are written in place; a schema that names its records over and over has more."""


class Text(NamedTuple):
    """A text without NUL."""


class Long(NamedTuple):
    """A number of 64 bits."""


class Symbols(NamedTuple):
    """One of these."""

    members: tuple[Any, ...]


class Optional(NamedTuple):
    """Nothing, which is branch `null` of a union of two, or a value."""

    null: int
    read: Read


class Items(NamedTuple):
    """A list, made of a Python list by `make` where it is no list."""

    read: Read
    make: Callable[[list[Any]], Any] | None


class Fields(NamedTuple):
    """A record as an instance of `message`, or as a dict."""

    record: str
    fields: Mapping[str, Read]
    message: type[Any] | None


Form = Text | Long | Symbols | Optional | Items | Fields
"""What may be read in place. A type that is in no such form is read by its reader."""


def read_record(
    record: Fields,
    forms: Mapping[Read, Form],
    *,
    faults: tuple[type[Exception], ...],
    reason: Callable[[Exception], str],
) -> Read:
    """The reader of a record; `forms` are those of readers of fields, `reason` names a fault."""
    source = _Source(forms)
    source.write_record(record, 0, "        ", 0)
    scope: dict[str, Any] = {
        **source.scope,
        "places": source.places,
        "reason": reason,
        "FAULTS": faults,
        "CodecError": CodecError,
        "NUL": "\0",
    }
    exec(_FUNCTION.format(body="".join(source.lines)), scope)  # noqa: S102 (our own text)
    read: Read = scope["read"]
    return read


_FUNCTION = """\
def read(data, at):
    place = 0
    try:
{body}    except FAULTS as fault:
        raise CodecError(f"{{places[place]}}: {{reason(fault)}}") from None
    return v0, at
"""
_OTHER = """\
v{n}, at = r{n}(data, at)
"""
_TEXT = """\
size = data[at]
if size & 129:
    v{n}, at = r{n}(data, at)
else:
    start = at + 1
    at = start + (size >> 1)
    v{n} = data[start:at].decode()
    if NUL in v{n}:
        raise ValueError("NUL is no text")
"""
_LONG = """\
size = data[at]
if size < 128:
    v{n} = (size >> 1) ^ -(size & 1)
    at += 1
elif 0 < data[at + 1] < 128:
    size = size & 127 | data[at + 1] << 7
    v{n} = (size >> 1) ^ -(size & 1)
    at += 2
else:
    v{n}, at = r{n}(data, at)
"""
_SYMBOLS = """\
size = data[at]
if size & 129:
    v{n}, at = r{n}(data, at)
else:
    at += 1
    v{n} = members{n}[size >> 1]
"""
_OPTIONAL = """\
size = data[at]
if size == {null}:
    at += 1
    v{n} = None
elif size != {other}:
    v{n}, at = r{n}(data, at)
else:
    at += 1
"""
_ITEMS_BEGIN = """\
size = data[at]
if size & 129 or not size or size >> 1 >= len(data) - at:
    v{n}, at = r{n}(data, at)
else:
    begun{n}, at, v{n} = at, at + 1, []
    for _ in range(size >> 1):
"""
_ITEMS_END = """\
        v{n}.append(v{item})
    if data[at]:
        v{n}, at = r{n}(data, begun{n})
    else:
        at += 1
"""
_INDENT = "    "


class _Source:
    """The statements of one function, and the names that they use.

    Each value that is read has a number: v7 is it, r7 its reader, type7 what is made of it.
    """

    def __init__(self, forms: Mapping[Read, Form]) -> None:
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {}
        self.places: list[str] = []
        self._forms = forms
        self._numbers = count(1)

    def write_record(self, record: Fields, number: int, indent: str, depth: int) -> None:
        """Statements after which v{number} is the record."""
        values = []
        for name, read in record.fields.items():
            self._write(f"place = {len(self.places)}\n", indent)
            self.places.append(f"{record.record}.{name}")
            values.append((name, self._value(read, indent, depth)))
        if record.message is None:
            made = "{" + ", ".join(f"{name!r}: v{value}" for name, value in values) + "}"
        else:
            self.scope[f"type{number}"] = record.message
            made = f"type{number}({', '.join(f'{name}=v{value}' for name, value in values)})"
        self._write(f"v{number} = {made}\n", indent)

    def _value(self, read: Read, indent: str, depth: int) -> int:
        """Write what reads a value; its number."""
        number = next(self._numbers)
        self._read(read, number, indent, depth)
        return number

    def _read(self, read: Read, number: int, indent: str, depth: int) -> None:
        """Statements after which v{number} is the value."""
        in_place = depth < NESTED_MAX and number < VALUES_MAX
        form = self._forms.get(read) if in_place else None
        if not isinstance(form, Fields):
            self.scope[f"r{number}"] = read
        match form:
            case Text():
                self._write(_TEXT, indent, n=number)
            case Long():
                self._write(_LONG, indent, n=number)
            case Symbols(members):
                self.scope[f"members{number}"] = members
                self._write(_SYMBOLS, indent, n=number)
            case Optional(null, some):
                self._write(_OPTIONAL, indent, n=number, null=2 * null, other=2 - 2 * null)
                inner = self._value(some, indent + _INDENT, depth + 1)
                self._write(f"v{number} = v{inner}\n", indent + _INDENT)
            case Items(item, make):
                self._write(_ITEMS_BEGIN, indent, n=number)
                inner = self._value(item, indent + 2 * _INDENT, depth + 2)
                self._write(_ITEMS_END, indent, n=number, item=inner)
                if make is not None:
                    self.scope[f"make{number}"] = make
                    self._write(f"v{number} = make{number}(v{number})\n", indent + _INDENT * 2)
            case Fields():
                self.write_record(form, number, indent, depth)
            case None:
                self._write(_OTHER, indent, n=number)

    def _write(self, text: str, indent: str, **names: int) -> None:
        for line in text.splitlines(keepends=True):
            self.lines.append(indent + (line.format(**names) if names else line))
