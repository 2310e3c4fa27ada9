r"""Reading JSON strictly, and a command out of it.

The usual body takes the short way: one decode and one encode in C. The short way knows for certain
whether a key was doubled, and gives every body with a `\u` escape to the long way, which alone can
meet a NUL, a lone surrogate or an escaped key. Only refusals and such bodies pay for a close look.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

import msgspec

from tidelog.errors import Invalid, Malformed
from tidelog.message import ID_PATTERN, Command

_DIGITS_MAX = 40
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_POINTER_DEPTH_MAX = 64

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_PLACE = re.compile(r"^(.*) - at `\$([A-Za-z0-9_.\[\]]{0,200})`$", re.DOTALL)
_STEP = re.compile(r"\.([A-Za-z0-9_]+)|\[([0-9]+)\]")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_MISSING = re.compile(r"^Object missing required field `(\w+)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
_PATTERN = re.compile(r"^Expected `str` matching regex '(.*)'$", re.DOTALL)
_END = r"(?![\s\S])"
_SURROGATE = re.compile("[\ud800-\udfff]")
_EXPECTED = re.compile(r"^Expected [^\n]{1,200}$")


class CommandReader:
    """Reads the commands of one type: the id from the path, the other fields from the body."""

    def __init__(self, command_type: type[Command], key: str) -> None:
        self.command_type: Final = command_type
        self.key: Final = key
        self._any_int_unbounded = _holds_unbounded_int(msgspec.inspect.type_info(command_type))

    def read(self, raw: bytes, aggregate_id: str) -> Command:
        """The command in the body; Malformed or Invalid if there is none."""
        return self.build(read_json(raw), aggregate_id)

    def build(self, fields: Any, aggregate_id: str, at: str = "") -> Command:
        """The command of decoded fields; `at` is the pointer of the fields in their document."""
        if type(fields) is not dict:
            raise Invalid("Expected a JSON object.", at)
        if self.key in fields:
            raise Invalid(
                "The id stands in its own place, not among the fields.",
                f"{at}/{self.key}",
            )
        fields[self.key] = aggregate_id
        if self._any_int_unbounded:
            _refuse_wide_ints(fields, at)
        try:
            return msgspec.convert(fields, self.command_type)
        except msgspec.ValidationError as error:
            raise invalid(error, at) from None


def read_json(raw: bytes) -> Any:
    """The JSON value, strictly: UTF-8, no doubled keys, no NaN, no NUL, no lone surrogate."""
    if not raw:
        raise Malformed("The body is empty. Send a JSON object, {} if it has no fields.")
    try:
        value = _decode(raw)
        # Without \u escapes a colon inside a string is the same byte on both sides. So the two
        # counts differ by the keys that the decoder dropped, and by nothing else.
        if b"\\u" not in raw:
            if raw.count(b":") == _encode(value).count(b":"):
                return value
            raise Malformed("A JSON object holds the same key twice.")
    except RecursionError:
        raise Malformed("The JSON is nested too deeply.") from None
    except ValueError:
        _explain(raw)
    _look_closely(raw)
    return value


def _explain(raw: bytes) -> NoReturn:
    """Say why the decoder refused the bytes."""
    _look_closely(raw)
    raise Malformed("The body is not valid JSON (RFC 8259).")


def _look_closely(raw: bytes) -> None:
    """Raise for all that is wrong with the bytes, by the slow and thorough parser."""
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_Pairs,
            parse_int=_number,
            parse_float=_number,
            parse_constant=_constant,
        )
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None
    except RecursionError:
        raise Malformed("The JSON is nested too deeply.") from None
    except ValueError:
        raise Malformed("The body is not valid JSON (RFC 8259).") from None
    _refuse_doubled_keys(value)
    _refuse_bad_values(value)


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, none dropped."""


class _TooLarge:
    """In place of a number that no field can hold."""


def _number(text: str) -> Any:
    if len(text) > _DIGITS_MAX or abs(float(text)) == float("inf"):
        return _TooLarge()
    return 0


def _constant(_: str) -> NoReturn:
    raise Malformed("JSON has no NaN and no Infinity.")


def _refuse_doubled_keys(document: Any) -> None:
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Pairs):
            if len({key for key, _ in value}) != len(value):
                raise Malformed("A JSON object holds the same key twice.")
            waiting.extend(child for _, child in value)
        elif isinstance(value, list):
            waiting.extend(value)


def _refuse_bad_values(document: Any) -> None:
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        at, value = waiting.pop()
        if isinstance(value, _Pairs):
            for key, child in value:
                _check_text(key, at, "A key")
                waiting.append((_join(at, key), child))
        elif isinstance(value, list):
            waiting.extend((_join(at, str(i)), child) for i, child in enumerate(value))
        elif isinstance(value, str):
            _check_text(value, at, "The text")
        elif isinstance(value, _TooLarge):
            raise Invalid("The number is out of range.", at)


def _check_text(text: str, at: str, what: str) -> None:
    if "\0" in text:
        raise Invalid(f"{what} holds a NUL character.", at)
    if _SURROGATE.search(text):
        raise Invalid(f"{what} holds a lone surrogate.", at)


def _holds_unbounded_int(info: Any) -> bool:
    """Whether the type holds an integer that its own bounds do not keep within 64 bits."""
    waiting, seen = [info], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, msgspec.inspect.IntType):
            bounds = (node.ge, node.gt, node.le, node.lt)
            if bounds[:2] == (None, None) or bounds[2:] == (None, None):
                return True
        if isinstance(node, msgspec.inspect.Field | msgspec.inspect.Type):
            if id(getattr(node, "cls", node)) not in seen:
                seen.add(id(getattr(node, "cls", node)))
                waiting.extend(getattr(node, name) for name in node.__struct_fields__)
        elif isinstance(node, tuple):
            waiting.extend(node)
    return False


def _refuse_wide_ints(document: Any, at: str) -> None:
    """Raise for an integer that no field of an event can hold (Avro long: 64 bits)."""
    waiting: list[tuple[str, Any]] = [(at, document)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend((_join(place, key), child) for key, child in value.items())
        elif isinstance(value, list):
            waiting.extend((_join(place, str(i)), child) for i, child in enumerate(value))
        elif isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
            raise Invalid("The number is out of range.", place)


def _join(at: str, name: str) -> str:
    """The pointer one step further; a name that could carry input along ends it instead."""
    if at.count("/") >= _POINTER_DEPTH_MAX or not _SAFE_NAME.fullmatch(name):
        return at
    return f"{at}/{name}"


def invalid(error: msgspec.ValidationError, at: str = "") -> Invalid:
    """The error with a JSON pointer (RFC 6901), without any part of the input."""
    message = str(error)
    placed = _PLACE.match(message)
    path = ""
    while placed:
        # A check of a nested record names a place of its own, and msgspec adds where the record is.
        message, inner = placed[1], placed[2]
        path += inner
        placed = _PLACE.match(message)
    pointer = at + "".join(f"/{name or index}" for name, index in _STEP.findall(path))
    if error.__cause__ is not None:
        return Invalid(_sentence(message), pointer)
    return _in_our_words(message, pointer)


def _in_our_words(message: str, pointer: str) -> Invalid:
    if missing := _MISSING.match(message):
        return Invalid("This field is required.", f"{pointer}/{missing[1]}")
    if unknown := _UNKNOWN.match(message):
        return Invalid("There is no such field.", _join(pointer, unknown[1]))
    if pattern := _PATTERN.match(message):
        return Invalid(_pattern_in_words(pattern[1]), pointer)
    if _EXPECTED.match(message):
        return Invalid(_sentence(message.replace("`", "")), pointer)
    return Invalid("This is not one of the values that the field takes.", pointer)


def _pattern_in_words(escaped: str) -> str:
    pattern = escaped.replace("\\\\", "\\")
    if pattern == ID_PATTERN:
        return "Expected an id: 1 to 128 characters of A-Z a-z 0-9 . _ ~ - and not . or .."
    return f"Expected text that matches {pattern.removesuffix(_END)}"


def _sentence(message: str) -> str:
    return message if message.endswith(".") else f"{message}."
