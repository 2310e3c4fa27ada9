"""Given events, then a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from tidelog.message import Event, Row
from tidelog.projection import Projection
from tidelog.testing._messages import check_form

R = TypeVar("R", bound=Row)
E = TypeVar("E", bound=Event)


class GivenProjection(Generic[R, E]):
    """A read model after some events, folded as the engine folds them."""

    def __init__(self, projection: Projection[R, E], history: Sequence[E] = ()) -> None:
        self.projection = projection
        self.history = tuple(history)
        self.rows: dict[str, R] = {}
        for event in history:
            check_form(event)
            if type(event) in projection.event_types:
                self._fold(event)

    def then_row(self, key: str, row: R | None) -> GivenProjection[R, E]:
        """The row of this key is exactly this one; None: there is no such row."""
        actual = self.rows.get(key)
        assert actual == row, (
            f"{self._told()}\nthen row {key!r} expected: {row!r}\n     but is: {actual!r}"
            + ("" if actual else f"\n     the rows are: {sorted(self.rows)}")
        )
        return self

    def _fold(self, event: E) -> None:
        for key in self.projection.keys_of(event):
            before = self.rows.get(key)
            if before is None and self.projection.initial is not None:
                before = self.projection.initial(key)
            row = self.projection.evolve(before, event)
            if row is None:
                self.rows.pop(key, None)
                continue
            check_form(row)
            named = getattr(row, self.projection.key)
            assert named == key, (
                f"{self._told()}\n{type(event).__name__} touches row {key!r}, "
                f"but evolve gave a row whose {self.projection.key} is {named!r}"
            )
            self.rows[key] = row

    def _told(self) -> str:
        past = ", ".join(type(event).__name__ for event in self.history) or "nothing"
        return f"given {self.projection.name} after {past}"
