"""Projections: a read model as one pure function, `evolve(row | None, event) -> row | None`.

The row type is the table: its fields are the columns. `None` deletes the row. Version, position,
created_at and updated_at of a row are kept by the engine; `evolve` never sees them.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tidelog.errors import DefinitionError
from tidelog.message import Context, Event, Row, union_members

R = TypeVar("R", bound=Row)
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, kw_only=True)
class Projection(Generic[R, E]):
    """One read model. The events that it folds are those of `evolve`'s annotation.

    `key` names the field of the row type that identifies a row (the primary key); it is also the
    field of an event that says which row the event touches. Where one event touches several rows,
    or the key is computed, `keys` returns them; `initial` then gives the row of a key before its
    first event, so that `evolve` knows which of the rows it has in hand.
    """

    name: str
    version: int
    contexts: Sequence[Context]
    row: type[R]
    key: str
    evolve: Callable[[R | None, E], R | None]
    keys: Callable[[E], Sequence[str]] | None = None
    initial: Callable[[str], R] | None = None
    indexes: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        known = {event for context in self.contexts for event in context.event_types}
        unknown = sorted(event.__name__ for event in self.event_types if event not in known)
        if unknown:
            raise DefinitionError(f"{self.name}: {unknown[0]} belongs to none of its contexts")
        if self.key not in self.row.__struct_fields__:
            raise DefinitionError(f"{self.name}: {self.row.__name__} has no field {self.key!r}")

    @property
    def event_types(self) -> tuple[type[Event], ...]:
        """The events that change this read model."""
        hint: Any = typing.get_type_hints(self.evolve).get("event")
        if hint is None:
            raise DefinitionError(f"{self.name}: evolve needs an annotated parameter 'event'")
        return tuple(union_members(hint, Event))

    def keys_of(self, event: E) -> Sequence[str]:
        """The keys of the rows that the event touches."""
        if self.keys is not None:
            return self.keys(event)
        return (getattr(event, self.key),)
