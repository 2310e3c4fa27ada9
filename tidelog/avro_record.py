"""The reader of an Avro record: a function whose source is written for the record's fields.

Reading is most of what a projector does, and walking over a list of fields was most of reading. So
each record gets straight code, as dataclasses and attrs do it: one statement per field, short texts
and numbers in place, everything else by the reader of its type. For a record of a text and a list:

    def read(data, at):
        field = 0
        try:
            # order_id
            size = data[at]
            if size & 129:
                f0, at = r0(data, at)
            else:
                start = at + 1
                at = start + (size >> 1)
                f0 = data[start:at].decode()
                if NUL in f0:
                    raise ValueError("NUL is no text")
            field = 1
            # lines
            f1, at = r1(data, at)
        except FAULTS as fault:
            raise CodecError(f"{record}.{names[field]}: {reason(fault)}") from None
        return message(order_id=f0, lines=f1), at

The names of fields are all of a schema that gets into the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tidelog.errors import CodecError

Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]
"""(bytes, where) → (value, where it ends)."""

_TEXT = """\
        size = data[at]
        if size & 129:
            f{n}, at = r{n}(data, at)
        else:
            start = at + 1
            at = start + (size >> 1)
            f{n} = data[start:at].decode()
            if NUL in f{n}:
                raise ValueError("NUL is no text")
"""
_LONG = """\
        size = data[at]
        if size < 128:
            f{n} = (size >> 1) ^ -(size & 1)
            at += 1
        elif 0 < data[at + 1] < 128:
            size = size & 127 | data[at + 1] << 7
            f{n} = (size >> 1) ^ -(size & 1)
            at += 2
        else:
            f{n}, at = r{n}(data, at)
"""
_OTHER = """\
        f{n}, at = r{n}(data, at)
"""
_STATEMENTS = {"text": _TEXT, "long": _LONG}


def read_record(
    record: str,
    fields: Mapping[str, Read],
    message: type[Any] | None,
    *,
    plain: Mapping[Read, str],
    faults: tuple[type[Exception], ...],
    reason: Callable[[Exception], str],
) -> Read:
    """The reader of a record as an instance of `message`, or as a dict.

    `plain` names the readers of texts and numbers, `reason` says what a fault was.
    """
    readers = {f"r{number}": read for number, read in enumerate(fields.values())}
    scope: dict[str, Any] = {
        **readers,
        "message": message,
        "names": tuple(fields),
        "record": record,
        "reason": reason,
        "FAULTS": faults,
        "CodecError": CodecError,
        "NUL": "\0",
    }
    exec(_source(fields, plain, message is None), scope)  # noqa: S102 (our own text)
    read: Read = scope["read"]
    return read


def _source(fields: Mapping[str, Read], plain: Mapping[Read, str], as_dict: bool) -> str:
    parts = ["def read(data, at):\n    field = 0\n    try:\n        pass\n"]
    for number, read in enumerate(fields.values()):
        if number:
            parts.append(f"        field = {number}\n")
        parts.append(_STATEMENTS.get(plain.get(read, ""), _OTHER).format(n=number))
    parts.append(
        "    except FAULTS as fault:\n"
        '        raise CodecError(f"{record}.{names[field]}: {reason(fault)}") from None\n'
    )
    form, opened, closed = ("{!r}: f{}", "{", "}") if as_dict else ("{}=f{}", "message(", ")")
    values = ", ".join(form.format(name, number) for number, name in enumerate(fields))
    parts.append(f"    return {opened}{values}{closed}, at\n")
    return "".join(parts)
