"""What identifies a checkpoint on disk, and what happens when it is another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidelog.engine.ports import Anchor, Checkpoint, Entry
from tidelog.errors import TopicRecreated
from tidelog.message import State
from tidelog.rocksdb import RocksStateStore


class Tally(State):
    count: int = 0


def saved(path: Path) -> None:
    store = RocksStateStore(path, Tally, topic_id="topic", definitions="one")
    anchor = Anchor(1, 0, "m-1")
    store.write(Checkpoint({"a": Entry(1, 1, Tally(count=1))}, {}, anchor, ""))
    store.close()


def test_a_checkpoint_survives_being_opened_again(tmp_path: Path) -> None:
    saved(tmp_path / "p0")
    store = RocksStateStore(tmp_path / "p0", Tally, topic_id="topic", definitions="one")
    assert store.anchor() == Anchor(1, 0, "m-1")
    assert store.entry("a") == Entry(1, 1, Tally(count=1))
    store.close()


def test_a_checkpoint_of_other_definitions_is_thrown_away(tmp_path: Path) -> None:
    saved(tmp_path / "p0")
    store = RocksStateStore(tmp_path / "p0", Tally, topic_id="topic", definitions="two")
    assert store.discarded
    assert store.anchor() == Anchor()
    assert store.entry("a") is None
    store.close()


def test_a_checkpoint_of_a_topic_that_was_recreated_refuses_to_serve(tmp_path: Path) -> None:
    saved(tmp_path / "p0")
    with pytest.raises(TopicRecreated, match="delete the checkpoint"):
        RocksStateStore(tmp_path / "p0", Tally, topic_id="another", definitions="one")
