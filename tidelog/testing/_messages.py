"""What both kinds of tests say about messages."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidelog.message import Message


def check_form(message: Message) -> None:
    """Fail where the message breaks its own types, as no message in the log or on the wire can."""
    kind = type(message)
    try:
        again = msgspec.convert(msgspec.to_builtins(message), kind)
    except msgspec.ValidationError as breach:
        raise AssertionError(
            f"{kind.__name__} breaks its own type: {breach}\n{message!r}"
        ) from breach
    assert again == message, f"{kind.__name__} does not survive storage: {message!r}"


def listed(messages: Sequence[Message]) -> str:
    """The messages, one per line where there are several."""
    if not messages:
        return "nothing"
    separator = "\n               " if len(messages) > 1 else ""
    return separator + separator.join(repr(message) for message in messages)


def difference(expected: Sequence[Message], actual: Sequence[Message]) -> str:
    """The fields in which the first two messages that differ do so, if they are of one type."""
    for wanted, got in zip(expected, actual, strict=False):
        if wanted != got and type(wanted) is type(got):
            fields = [
                f"{type(got).__name__}.{name}: expected {getattr(wanted, name)!r}, "
                f"happened {getattr(got, name)!r}"
                for name in type(got).__struct_fields__
                if getattr(wanted, name) != getattr(got, name)
            ]
            return "\n     differing: " + "; ".join(fields)
    return ""
