"""Given a row and its events, when they differ, then the first event that shows it is named."""

from __future__ import annotations

from datetime import timedelta

from tests.read_side import CODEC, EPOCH, Added, Cleared, Counter
from tests.rebuild_projections import counter
from tidelog import Event
from tidelog.engine.bulk_reading import Item
from tidelog.engine.differing import cause, differing
from tidelog.engine.folding import StoredRow
from tidelog.engine.reading import Partition

HOME = Partition("counters", 0)


def history(*events: Event) -> list[tuple[Partition, Item]]:
    return [
        (
            HOME,
            Item("a", event, type(event).__name__, "a", n, n, n, EPOCH + timedelta(seconds=n)),
        )
        for n, event in enumerate(events, start=1)
    ]


def add(by: int) -> Added:
    return Added(counter_id="a", by=by)


def row(total: int, version: int, created: int = 1) -> StoredRow:
    return StoredRow(
        Counter(counter_id="a", total=total),
        version,
        f"counters:0:{version}",
        EPOCH + timedelta(seconds=created),
        EPOCH + timedelta(seconds=version),
    )


def test_an_event_that_is_missing_at_the_end_is_named() -> None:
    found = cause(counter, CODEC, history(add(1), add(2), add(4)), row(3, 2))

    assert found.item is not None
    assert (found.item.sequence, found.reason) == (
        3,
        "the row holds its events up to here; this one is missing",
    )


def test_an_event_that_was_left_out_in_between_is_named() -> None:
    found = cause(counter, CODEC, history(add(1), add(2), add(4)), row(5, 3))

    assert found.item is not None
    assert (found.item.sequence, found.reason) == (2, "the row holds every event but this one")


def test_a_row_that_is_missing_was_to_come_with_its_first_event() -> None:
    found = cause(counter, CODEC, history(add(1)), None)

    assert found.item is not None and found.item.sequence == 1


def test_a_row_that_should_have_gone_is_named_with_the_event_that_ends_it() -> None:
    ended = history(add(1), add(2), Cleared(counter_id="a"))

    found = cause(counter, CODEC, ended, row(3, 2))

    assert found.item is not None
    assert (found.item.sequence, found.item.kind) == (3, "Cleared")


def test_a_value_that_no_event_gave_is_named_with_its_column() -> None:
    found = cause(counter, CODEC, history(add(1), add(2), add(0)), row(99, 3))

    assert found.item is not None
    assert found.item.sequence == 2, "the last event that gave total a value"
    assert found.reason.endswith("it differs in total")


def test_a_row_without_any_event_has_no_event_to_name() -> None:
    assert cause(counter, CODEC, [], row(1, 1)).item is None


def test_all_columns_differ_from_a_row_that_is_not_there() -> None:
    assert "total" in differing(None, row(1, 1))
    assert differing(row(1, 1), row(2, 1)) == ["total"]
