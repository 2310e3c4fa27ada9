"""Random messages for properties, made from their types alone (needs hypothesis).

    @given(st.lists(commands_for(orders, key="o-1")))
    def test_no_order_ends_twice(commands): ...

Ids come from a small pool, lists are short and numbers mostly small, so that commands meet each
other; the bounds of every type are reached too. A field that needs more is named in `fields`:
`lines` wherever it occurs, or `PlaceOrder.lines` in one type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from hypothesis import reject
from hypothesis import strategies as st
from msgspec import inspect as types

from tidelog.aggregate import Aggregate
from tidelog.errors import DefinitionError
from tidelog.message import ID_PATTERN, Command, Message

C = TypeVar("C", bound=Command)
M = TypeVar("M", bound=Message)
Fields = Mapping[str, st.SearchStrategy[Any]]

IDS: Sequence[str] = ("a", "b", "c")
"""The pool that ids are drawn from, unless `fields` says otherwise."""

ITEMS_MAX = 3
"""How many items a list has at most, unless its type asks for more."""

TEXT_MAX = 12
"""How many characters a text has at most, unless its type asks for more."""

_END_OF_TEXT = r"(?![\s\S])"


def commands_for(
    aggregate: Aggregate[C, Any, Any],
    *,
    key: str | st.SearchStrategy[str],
    fields: Fields | None = None,
) -> st.SearchStrategy[C]:
    """Valid commands of the aggregate, all for this key (or for keys drawn from the strategy)."""
    keys = st.just(key) if isinstance(key, str) else key
    given = {**(fields or {}), aggregate.key: keys}
    kinds: Any = aggregate.context.command_types
    return st.one_of([messages_of(kind, fields=given) for kind in kinds])


def messages_of(kind: type[M], *, fields: Fields | None = None) -> st.SearchStrategy[M]:
    """Valid messages of one type. `fields` gives strategies by field name, also inside lines."""
    given = fields or {}
    info = types.type_info(kind)
    assert isinstance(info, types.StructType), f"{kind!r} is not a message type"
    drawn = {field.name: _field(kind, field, given) for field in info.fields}
    return st.fixed_dictionaries(drawn).map(partial(_build, kind))


def _field(kind: type[Message], field: types.Field, fields: Fields) -> st.SearchStrategy[Any]:
    for name in (f"{kind.__name__}.{field.name}", field.name):
        if name in fields:
            return fields[name]
    return _values(field.type, fields, field.name)


def _build(kind: type[M], values: dict[str, Any]) -> M:
    try:
        return kind(**values)
    except ValueError:  # A rule of form over several fields; draw again.
        reject()


def _values(info: types.Type, fields: Fields, name: str) -> st.SearchStrategy[Any]:
    make = _MAKERS.get(type(info))
    if make is None:
        raise DefinitionError(
            f"no values are known for field {name!r} of {type(info).__name__}; "
            "give a strategy for it in `fields`"
        )
    return make(info, fields, name)


def _texts(info: types.StrType, _: Fields, __: str) -> st.SearchStrategy[str]:
    if info.pattern == ID_PATTERN:
        return st.sampled_from(IDS)
    shortest = info.min_length or 0
    longest = min(info.max_length or TEXT_MAX, max(TEXT_MAX, shortest))
    if info.pattern is None:
        alphabet = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
        return st.text(alphabet, min_size=shortest, max_size=longest)
    # The generator knows the end of a text as \Z only.
    pattern = re.compile(info.pattern.replace(_END_OF_TEXT, r"\Z"))
    texts = st.from_regex(pattern, fullmatch=info.pattern.endswith(_END_OF_TEXT))
    if info.max_length is None and not shortest:
        return texts
    at_most = info.max_length or TEXT_MAX
    return texts.filter(lambda text: shortest <= len(text) <= at_most)


def _integers(info: types.IntType, _: Fields, __: str) -> st.SearchStrategy[int]:
    lowest = info.ge if info.ge is not None else _next(info.gt, 1)
    highest = info.le if info.le is not None else _next(info.lt, -1)
    anything = st.integers(lowest, highest)
    if lowest is None:
        return anything
    small = lowest + 10 if highest is None else min(lowest + 10, highest)
    return st.integers(lowest, small) | st.integers(lowest, small) | anything


def _next(bound: int | None, step: int) -> int | None:
    return None if bound is None else bound + step


def _lists(
    info: types.ListType | types.VarTupleType, fields: Fields, name: str
) -> st.SearchStrategy[Any]:
    shortest = info.min_length or 0
    longest = max(shortest, min(ITEMS_MAX, info.max_length or ITEMS_MAX))
    items = _values(info.item_type, fields, name)
    lists = st.lists(items, min_size=shortest, max_size=longest)
    return lists.map(tuple) if isinstance(info, types.VarTupleType) else lists


def _mappings(info: types.DictType, fields: Fields, name: str) -> Any:
    return st.dictionaries(
        _values(info.key_type, fields, name),
        _values(info.value_type, fields, name),
        min_size=info.min_length or 0,
        max_size=max(info.min_length or 0, ITEMS_MAX),
    )


def _unions(info: types.UnionType, fields: Fields, name: str) -> Any:
    return st.one_of([_values(member, fields, name) for member in info.types])


_MAKERS: dict[type[types.Type], Callable[[Any, Fields, str], st.SearchStrategy[Any]]]
_MAKERS = {
    types.StrType: _texts,
    types.IntType: _integers,
    types.BoolType: lambda *_: st.booleans(),
    types.NoneType: lambda *_: st.none(),
    types.LiteralType: lambda info, *_: st.sampled_from(info.values),
    types.EnumType: lambda info, *_: st.sampled_from(list(info.cls)),
    types.ListType: _lists,
    types.VarTupleType: _lists,
    types.DictType: _mappings,
    types.UnionType: _unions,
    types.StructType: lambda info, fields, _: messages_of(info.cls, fields=fields),
}
