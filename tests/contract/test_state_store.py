"""What every checkpoint store promises, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tidelog.engine.ports import Anchor, Checkpoint, Entry, Seen, StateStore
from tidelog.memory import MemoryStateStore
from tidelog.message import State
from tidelog.rocksdb.state_store import RocksStateStore


class Tally(State):
    count: int = 0


@pytest.fixture(params=["memory", "rocksdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    makers: dict[str, Callable[[], StateStore]] = {
        "memory": MemoryStateStore,
        "rocksdb": lambda: RocksStateStore(
            tmp_path / "p0", Tally, topic_id="topic", definitions="tallies:1"
        ),
    }
    return makers[request.param]()


def _entry(version: int) -> Entry:
    return Entry(version, version, Tally(count=version))


def _seen(minute: int) -> Seen:
    at = f"2026-01-31T12:{minute:02d}:00.000000Z"
    return Seen("hash", "a", minute, (("Counted", minute), ("Counted", minute + 1)), at)


def test_a_fresh_store_is_empty(store: StateStore) -> None:
    assert store.anchor() == Anchor()
    assert store.entry("a") is None
    assert store.seen("id") is None


def test_a_checkpoint_is_given_back_whole(store: StateStore) -> None:
    anchor = Anchor(7, 12, "m-7")
    store.write(Checkpoint({"a": _entry(3), "b": _entry(4)}, {"id": _seen(5)}, anchor, ""))
    assert store.anchor() == anchor
    assert (store.entry("a"), store.entry("b")) == (_entry(3), _entry(4))
    assert store.seen("id") == _seen(5)


def test_a_later_checkpoint_changes_only_what_it_names(store: StateStore) -> None:
    store.write(Checkpoint({"a": _entry(1), "b": _entry(2)}, {}, Anchor(2, 2, "m-2"), ""))
    store.write(Checkpoint({"b": _entry(3)}, {"id": _seen(1)}, Anchor(3, 4, "m-3"), ""))
    assert (store.entry("a"), store.entry("b")) == (_entry(1), _entry(3))
    assert store.anchor() == Anchor(3, 4, "m-3")


def test_the_writer_s_dictionaries_stay_its_own(store: StateStore) -> None:
    entries = {"a": _entry(1)}
    store.write(Checkpoint(entries, {}, Anchor(1, 1, "m-1"), ""))
    entries.clear()
    assert store.entry("a") == _entry(1)


def test_seen_commands_expire_before_the_given_time_and_not_sooner(store: StateStore) -> None:
    seen = {f"id-{minute}": _seen(minute) for minute in range(5)}
    store.write(Checkpoint({}, seen, Anchor(1, 1, "m-1"), ""))
    store.write(Checkpoint({}, {}, Anchor(2, 2, "m-2"), _seen(2).recorded_at))
    left = [minute for minute in range(5) if store.seen(f"id-{minute}")]
    assert left == [2, 3, 4]


def test_a_cleared_store_is_empty_and_can_be_written_again(store: StateStore) -> None:
    store.write(Checkpoint({"a": _entry(1)}, {"id": _seen(1)}, Anchor(1, 1, "m-1"), ""))
    store.clear()
    assert (store.anchor(), store.entry("a"), store.seen("id")) == (Anchor(), None, None)
    store.write(Checkpoint({"a": _entry(2)}, {}, Anchor(2, 2, "m-2"), ""))
    assert store.entry("a") == _entry(2)


def test_a_command_id_that_came_back_after_its_window_is_not_forgotten_with_its_old_answer(
    store: StateStore,
) -> None:
    # given an id whose first answer is past the window, and that has a new one
    store.write(Checkpoint({}, {"id": _seen(1)}, Anchor(1, 1, "m-1"), ""))
    store.write(Checkpoint({}, {"id": _seen(30)}, Anchor(2, 2, "m-2"), ""))
    # when what was recorded before minute 10 is forgotten
    horizon = "2026-01-31T12:10:00.000000Z"
    store.write(Checkpoint({}, {}, Anchor(3, 3, "m-3"), horizon))
    # then the new answer stands
    assert store.seen("id") == _seen(30)
