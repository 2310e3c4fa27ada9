"""Query parameters: how each is read, and how the documents show it.

A value of another form is malformed (400); one that is well formed but impossible is invalid (422).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple, TypeVar

from tidelog.errors import Invalid, Malformed
from tidelog.message import ID_PATTERN

WAIT_MS_DEFAULT = 2_000
WAIT_MS_MAX = 10_000
PAGE_DEFAULT = 50
PAGE_MAX = 200
CURSOR_CHARACTERS_MAX = 512

_ID = re.compile(ID_PATTERN)
_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_DAY = re.compile(r"[0-9]{4,6}-[0-9]{2}-[0-9]{2}", re.ASCII)
_INSTANT = re.compile(
    r"[0-9]{4,6}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(?P<offset>Z|[+-][0-9]{2}:[0-9]{2})?",
    re.ASCII,
)

T = TypeVar("T", bound=date)


class Parameter(NamedTuple):
    """One query parameter. `read` takes its text, or raises Malformed or Invalid."""

    name: str
    read: Callable[[str], Any]
    schema: dict[str, Any]
    description: str


def whole_number(
    name: str, least: int, most: int, description: str, *, default: int | None = None
) -> Parameter:
    """A whole number within bounds; anything else is invalid."""

    def read(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
            raise Invalid(f"{name} takes a whole number from {least} to {most}.", f"/{name}")
        return int(text)

    schema: dict[str, Any] = {"type": "integer", "minimum": least, "maximum": most}
    return Parameter(name, read, _with_default(schema, default), description)


def one_of(
    name: str, values: Sequence[str], description: str, *, default: str | None = None
) -> Parameter:
    """One of these words; any other is malformed."""

    def read(text: str) -> str:
        if text not in values:
            raise Malformed(f"{name} takes one of {', '.join(values)}.")
        return text

    schema: dict[str, Any] = {"type": "string", "enum": [*values]}
    return Parameter(name, read, _with_default(schema, default), description)


def identifier(name: str, description: str) -> Parameter:
    """An id, compared as a whole."""

    def read(text: str) -> str:
        if not _ID.match(text):
            raise Invalid(
                f"{name} takes 1 to 128 of A-Z a-z 0-9 . _ ~ - and neither . nor ..", f"/{name}"
            )
        return text

    return Parameter(name, read, {"type": "string", "pattern": ID_PATTERN}, description)


def day(name: str, description: str) -> Parameter:
    """A day of the calendar: `2026-07-31`."""

    def read(text: str) -> date:
        if not _DAY.fullmatch(text):
            raise Malformed(f"{name} takes a day such as 2026-07-31.")
        return _on_the_calendar(name, text, date.fromisoformat)

    return Parameter(name, read, {"type": "string", "format": "date"}, description)


def instant(name: str, description: str) -> Parameter:
    """A moment as in RFC 3339: `2026-07-31T12:30:15Z`, or a day, which stands for its start."""

    def read(text: str) -> datetime:
        if _DAY.fullmatch(text):
            return _on_the_calendar(name, text, _start_of_day)
        match = _INSTANT.fullmatch(text.upper())
        if match is None:
            raise Malformed(
                f"{name} takes a time such as 2026-07-31T12:30:15Z (RFC 3339) or a day; "
                "a plus sign is sent as %2B."
            )
        if match["offset"] is None:
            raise Invalid(f"{name} needs an offset: end it in Z, or in +02:00.", f"/{name}")
        return _on_the_calendar(name, match[0], _in_utc)

    return Parameter(name, read, {"type": "string", "format": "date-time"}, description)


def _on_the_calendar(name: str, text: str, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except (ValueError, OverflowError):
        raise Invalid(
            f"{name} is not a time of the calendar, or not of the years 1 to 9999.", f"/{name}"
        ) from None


def _start_of_day(text: str) -> datetime:
    return datetime.combine(date.fromisoformat(text), time(), UTC)


def _in_utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _with_default(schema: dict[str, Any], default: int | str | None) -> dict[str, Any]:
    return schema if default is None else {**schema, "default": default}


def _cursor(text: str) -> str:
    """Only the list that gave a cursor can read it."""
    return text


WAIT_MS = whole_number(
    "wait_ms",
    0,
    WAIT_MS_MAX,
    "How long to wait for the consistency token.",
    default=WAIT_MS_DEFAULT,
)
LIMIT = whole_number("limit", 1, PAGE_MAX, "Items of a page, at most.", default=PAGE_DEFAULT)
CURSOR = Parameter(
    "cursor",
    _cursor,
    {"type": "string", "maxLength": CURSOR_CHARACTERS_MAX},
    "`next_cursor` of the page before, with the same sort and filters.",
)
