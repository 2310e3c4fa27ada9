"""Given a log, when a stretch of it is replayed, then a table of its own holds the fold of that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.log_writer import until
from tests.read_side import Added
from tests.rebuild_world import BulkWorld, bulk, bulk_registry, bulk_workers
from tidelog.errors import Invalid
from tidelog.postgres.rebuilds import Refused
from tidelog.rebuild.replay import Stretch, drop_scratch, read_bound, replay
from tidelog.rebuild.site import Quiet

__all__ = ["bulk", "bulk_registry", "bulk_workers"]

ALL = Stretch(start=None, end=None)


def test_the_whole_log_comes_to_what_a_rebuild_comes_to(bulk: BulkWorld) -> None:
    bulk.append_some(800)
    bulk.rebuild()

    result = replay(bulk.world(), "all", ALL, Quiet())

    assert (result["table"], result["failed"]) == ("counter__scratch_all", 0)
    same = "SELECT * FROM {s}.counter__scratch_all EXCEPT ALL SELECT * FROM {s}.counter"
    assert bulk.query(same) == []
    assert bulk.query("SELECT count(*) FROM {s}.counter") == [(result["rows"],)]
    assert bulk.view() == "counter__v1_g1"


def test_a_stretch_begins_after_its_first_position_and_ends_with_its_last(
    bulk: BulkWorld,
) -> None:
    for by in (1, 2, 4, 8):
        bulk.log.append(Added(counter_id="a", by=by))
    at = f"counters:{bulk.log.partition('a')}"
    stretch = Stretch(start=read_bound(f"{at}:1"), end=read_bound(f"{at}:3"))

    result = replay(bulk.world(), "middle", stretch, Quiet())

    assert (result["events"], result["rows"]) == (2, 1)
    assert bulk.query("SELECT total, version FROM {s}.counter__scratch_middle") == [(6, 3)]


def test_a_stretch_of_time_takes_the_events_of_that_time(bulk: BulkWorld) -> None:
    bulk.log.append(Added(counter_id="a", by=1))
    between = datetime.now(UTC) + timedelta(milliseconds=20)
    until(lambda: datetime.now(UTC) > between, "time passes")
    bulk.log.append(Added(counter_id="a", by=2))

    early = replay(bulk.world(), "early", Stretch(start=None, end=between), Quiet())
    late = replay(bulk.world(), "late", Stretch(start=between, end=None), Quiet())

    assert (early["events"], late["events"]) == (1, 1)
    assert bulk.query("SELECT total FROM {s}.counter__scratch_early") == [(1,)]
    assert bulk.query("SELECT total FROM {s}.counter__scratch_late") == [(2,)]


@pytest.mark.parametrize("name", ["grouped", "journal"])
def test_every_kind_of_read_model_can_be_replayed(bulk: BulkWorld, name: str) -> None:
    bulk.append_some(300)

    result = replay(bulk.world(name), "all", ALL, Quiet())

    assert result["rows"] > 2
    assert bulk.query(f"SELECT count(*) FROM {{s}}.{result['table']}") == [(result["rows"],)]


def test_a_label_in_use_is_refused_until_it_is_dropped(bulk: BulkWorld) -> None:
    bulk.append_some(100)
    replay(bulk.world(), "mine", ALL, Quiet())
    bulk.append_some(100)

    with pytest.raises(Refused, match="choose another label"):
        replay(bulk.world(), "mine", ALL, Quiet())

    assert drop_scratch(bulk.world(), "mine") == "counter__scratch_mine"
    assert bulk.tables() == []
    replay(bulk.world(), "mine", ALL, Quiet())


def test_events_that_fail_are_told_and_the_others_are_there(bulk: BulkWorld) -> None:
    bulk.log.append(Added(counter_id="a", by=1), Added(counter_id="a", by=-1))
    bulk.log.append(Added(counter_id="b", by=5))

    result = replay(bulk.world(), "x", ALL, Quiet())

    assert (result["rows"], result["failed"]) == (2, 1)
    assert result["first_failure"]["key"] == "a"
    assert bulk.query("SELECT count(*) FROM {s}.parked_keys") in ([], [(0,)])


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01T00:00:00", "counters:0", "a:b:c"])
def test_what_is_neither_a_position_nor_a_time_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        read_bound(text)
