"""How far a read model is behind: the arithmetic, the trend, and the one word for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from tidelog.cli.lag import COLUMNS, SUMMARY, partition_lines
from tidelog.cli.output import show_items
from tidelog.engine.judge import Progress
from tidelog.engine.reading import Partition
from tidelog.lag import (
    CATCHING_UP_S,
    STALLED_S,
    TREND_WINDOW_S,
    GenerationLag,
    LagHistory,
    LogView,
    StoredGeneration,
    StoredPosition,
    measure,
    trend,
)

NOW = datetime(2026, 7, 31, 12, 0, tzinfo=UTC)
ONE, TWO = Partition("orders", 0), Partition("orders", 1)


def stored(
    sequences: Mapping[Partition, int],
    *,
    version: int = 1,
    number: int = 1,
    unmoved_s: float = 0.0,
    feeders: int = 1,
    watchers: int = 0,
    parked: int = 0,
    serving: bool = True,
    state: str = "live",
) -> StoredGeneration:
    return StoredGeneration(
        projection="summary",
        version=version,
        number=number,
        serving=serving,
        state=state,
        feeders=feeders,
        watchers=watchers,
        parked=parked,
        positions={
            at: StoredPosition(Progress(sequence, sequence * 2), unmoved_s)
            for at, sequence in sequences.items()
        },
    )


def log(
    ends: Mapping[Partition, int], ages: Mapping[tuple[Partition, int], float] | None = None
) -> LogView:
    """A log with these last sequences; `ages` of the first event after a sequence."""
    times = {
        (at, Progress(sequence, sequence * 2)): NOW - timedelta(seconds=age)
        for (at, sequence), age in (ages or {}).items()
    }
    return LogView(NOW, ends, times)


def one(generation: StoredGeneration, view: LogView, declared: int = 1) -> GenerationLag:
    (found,) = measure([generation], view, LagHistory(), {"summary": declared})
    return found


def test_the_lag_is_the_sum_of_differences_and_the_age_of_the_oldest_missing_event() -> None:
    found = one(stored({ONE: 7, TWO: 5}), log({ONE: 10, TWO: 6}, {(ONE, 7): 2.5, (TWO, 5): 4.0}))

    assert (found.records, found.seconds) == (4, 4.0)
    assert [(each.records, each.seconds) for each in found.partitions] == [(3, 2.5), (1, 4.0)]


def test_where_nothing_is_missing_both_are_zero() -> None:
    found = one(stored({ONE: 10}), log({ONE: 10}))

    assert (found.records, found.seconds, found.status) == (0, 0.0, "live")


def test_a_clock_that_runs_behind_gives_no_negative_age() -> None:
    assert one(stored({ONE: 1}), log({ONE: 2}, {(ONE, 1): -3.0})).seconds == 0.0


def test_a_read_model_beyond_the_log_is_a_problem_and_no_lag() -> None:
    found = one(stored({ONE: 12}), log({ONE: 10}))

    assert found.records == 0
    assert "the log has lost events" in found.problems()[0]


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (0, 0, "steady"),
        (0, 9, "steady"),
        (0, 10, "growing"),
        (10, 0, "shrinking"),
        (1_000, 1_090, "steady"),
        (1_000, 1_200, "growing"),
        (1_000, 800, "shrinking"),
    ],
)
def test_the_trend_is_told_where_the_change_is_more_than_what_is_in_flight(
    before: int, now: int, told: str
) -> None:
    assert trend(before, now) == told


def test_the_trend_needs_two_looks_and_forgets_what_is_older_than_its_window() -> None:
    history = LagHistory()

    def look(seconds: float, sequence: int) -> str | None:
        view = log({ONE: 1_000})._replace(at=NOW + timedelta(seconds=seconds))
        (found,) = measure([stored({ONE: sequence})], view, history, {})
        assert found.trend == found.partitions[0].trend
        return found.trend

    assert look(0, 0) is None
    assert look(1, 500) == "shrinking"
    assert look(TREND_WINDOW_S + 1, 500) == "steady"
    assert look(TREND_WINDOW_S + 2, 400) == "growing"


@pytest.mark.parametrize(
    ("age", "unmoved", "told"),
    [
        (STALLED_S, STALLED_S, "stalled"),
        # An old event of a log that is being worked off.
        (3_600.0, 0.5, "catching-up"),
        # A new event of a partition that was quiet for long.
        (0.5, 3_600.0, "live"),
        (CATCHING_UP_S + 1, CATCHING_UP_S + 1, "catching-up"),
    ],
)
def test_stalled_is_what_waits_for_long_and_has_not_moved_for_as_long(
    age: float, unmoved: float, told: str
) -> None:
    found = one(stored({ONE: 1}, unmoved_s=unmoved), log({ONE: 2}, {(ONE, 1): age}))

    assert found.status == told
    assert bool(found.problems()) == (told == "stalled")


def test_the_status_names_the_gravest_first() -> None:
    late = log({ONE: 2}, {(ONE, 1): STALLED_S})

    def status(declared: int = 1, **changes: object) -> str:
        generation = stored({ONE: 1}, unmoved_s=STALLED_S, **changes)  # type: ignore[arg-type]
        return one(generation, late, declared).status

    assert status(state="loading", feeders=0) == "loading"
    assert status(declared=2, feeders=0) == "needs-rebuild"
    assert status(declared=2, feeders=0, serving=False) == "stopped"
    assert status(feeders=0) == "stopped"
    assert status(parked=3) == "stalled"
    assert one(stored({ONE: 2}, parked=3), late).status == "parked 3"


def test_an_older_version_beside_the_declared_one_needs_no_rebuild() -> None:
    old, new = stored({ONE: 2}, feeders=0), stored({ONE: 2}, version=2, serving=False)
    found = measure([old, new], log({ONE: 2}), LagHistory(), {"summary": 2})

    assert [each.status for each in found] == ["stopped", "live"]


def test_a_log_that_hides_its_end_for_long_is_a_stall_though_no_event_is_seen_to_wait() -> None:
    short = one(stored({ONE: 2}), log({ONE: 2})._replace(held_s={ONE: STALLED_S - 1}))
    long = one(stored({ONE: 2}), log({ONE: 2})._replace(held_s={ONE: STALLED_S}))

    assert (short.status, short.problems()) == ("live", [])
    assert (long.status, long.records) == ("stalled", 0)
    assert "no reader sees orders:0 beyond 2" in long.problems()[0]


def test_an_idle_feed_without_a_connection_is_no_dead_one_while_its_process_lives() -> None:
    idle, old = stored({ONE: 2}, feeders=0, watchers=1), log({ONE: 2})

    assert one(idle, old).status == "live"
    assert one(stored({ONE: 2}, feeders=0), old).status == "stopped"
    other = stored({ONE: 2}, feeders=0, watchers=1, serving=False)
    assert one(other, old, declared=2).status == "stopped"


def test_the_tables_tell_which_generation_serves(capsys: pytest.CaptureFixture[str]) -> None:
    old, new = stored({ONE: 2}, serving=False), stored({ONE: 2}, number=2)
    found = measure([old, new], log({ONE: 2}), LagHistory(), {"summary": 1})

    show_items([each.item() for each in found], SUMMARY, as_json=False)
    header, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == list(SUMMARY)
    assert lines == [  # one look tells no trend: its cell is empty
        ["summary", "1", "1", "no", "0", "0.0", "live"],
        ["summary", "1", "2", "yes", "0", "0.0", "live"],
    ]

    show_items([line for each in found for line in partition_lines(each)], COLUMNS, as_json=False)
    _, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[2:5] for line in lines] == [["1", "no", "orders:0"], ["2", "yes", "orders:0"]]
