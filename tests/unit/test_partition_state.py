"""What an owner holds in memory: bounded where it is saved, kept where it is not."""

from __future__ import annotations

from tidelog.aggregate import Aggregate
from tidelog.engine.judge import Verdict
from tidelog.engine.partition import EXPIRE_EVERY_CHECKPOINTS, PartitionState
from tidelog.engine.ports import Anchor, Checkpoint, Entry, Limits, Seen, StoredRecord
from tidelog.memory import MemoryCodec, MemoryStateStore
from tidelog.message import Command, Context, Event, Id, State
from tidelog.wire import EventMetadata, event_headers


class Count(Command):
    counter_id: Id


class Counted(Event):
    counter_id: Id


class Counter(State):
    count: int = 0


def decide(command: Count, state: Counter) -> list[Counted]:
    return [Counted(counter_id=command.counter_id)]


def evolve(state: Counter, event: Counted) -> Counter:
    return Counter(count=state.count + 1)


counter = Aggregate(
    name="counter",
    context=Context(name="counters", key="counter_id", commands=Count, events=Counted),
    initial=Counter(),
    decide=decide,
    evolve=evolve,
)


CODEC = MemoryCodec([Counted])


class _CountingStore(MemoryStateStore):
    """Counts how often it is asked, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.written: list[Checkpoint] = []

    def entry(self, key: str) -> Entry | None:
        self.asked.append(key)
        return super().entry(key)

    def write(self, checkpoint: Checkpoint) -> None:
        self.written.append(checkpoint)
        super().write(checkpoint)


def _state(store: MemoryStateStore, entries_max: int = 2, hours: int = 1) -> PartitionState:
    limits = Limits(
        cached_entries_max=entries_max,
        cached_seen_max=entries_max,
        idempotency_window_hours=hours,
    )
    return PartitionState(counter, store, limits)


def _publish(
    state: PartitionState, sequence: int, key: str, at: str = "2026-01-31T12:00:00.000000Z"
) -> None:
    entry = Entry(sequence, sequence, Counter(count=sequence))
    seen = Seen("hash", key, sequence, (("Counted", sequence),), at)
    anchor = Anchor(sequence, sequence, f"m-{sequence}")
    state.publish({key: entry}, {f"command-{sequence}": seen}, anchor)


def test_a_clean_entry_leaves_when_others_were_used_after_it() -> None:
    store = _CountingStore()
    state = _state(store, entries_max=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        state.entry(key)
    assert store.asked == ["a", "b", "c", "b"]


def test_what_is_not_saved_yet_is_never_dropped() -> None:
    store = _CountingStore()
    state = _state(store, entries_max=1)
    for sequence in range(1, 50):
        _publish(state, sequence, f"key-{sequence}")
    assert [state.entry(f"key-{n}").version for n in range(1, 50)] == [*range(1, 50)]
    assert store.asked == []
    assert state.unsaved() == 98


def test_a_checkpoint_makes_all_clean_and_the_store_gives_it_back() -> None:
    store = _CountingStore()
    state = _state(store, entries_max=1)
    for sequence in range(1, 6):
        _publish(state, sequence, f"key-{sequence}")
    state.checkpoint()
    assert state.unsaved() == 0
    assert [state.entry(f"key-{n}").version for n in range(1, 6)] == [1, 2, 3, 4, 5]
    again = _state(store)
    assert again.anchor == state.anchor
    assert again.entry("key-3") == state.entry("key-3")
    assert again.seen("command-4") == state.seen("command-4")


def test_a_newer_value_hides_the_cached_one_before_and_after_the_checkpoint() -> None:
    state = _state(MemoryStateStore())
    assert state.entry("a").version == 0
    _publish(state, 1, "a")
    assert state.entry("a").version == 1
    state.checkpoint()
    assert state.entry("a").version == 1


def test_the_window_of_seen_commands_counts_by_the_time_of_the_log() -> None:
    store = MemoryStateStore()
    state = _state(store, entries_max=1, hours=1)
    _publish(state, 1, "a", at="2020-01-01T10:00:00.000000Z")
    _publish(state, 2, "a", at="2020-01-01T10:30:00.000000Z")
    state.checkpoint()
    assert store.seen("command-1")
    _publish(state, 3, "a", at="2020-01-01T11:15:00.000000Z")
    for _ in range(EXPIRE_EVERY_CHECKPOINTS):
        state.checkpoint()
    assert store.seen("command-1") is None
    assert store.seen("command-2")
    assert store.seen("command-3")


def test_reset_forgets_memory_and_checkpoint() -> None:
    store = MemoryStateStore()
    state = _state(store)
    _publish(state, 1, "a")
    state.checkpoint()
    _publish(state, 2, "b")
    state.reset()
    assert (state.anchor, state.unsaved()) == (Anchor(), 0)
    assert state.entry("a").version == state.entry("b").version == 0
    assert state.seen("command-1") is None
    assert store.anchor() == Anchor()


def test_the_events_of_a_command_are_found_together_by_a_replay() -> None:
    state = _state(MemoryStateStore())
    _replay(state, "one", "one", "two")
    assert _events_of(state, "one") == [1, 2]
    assert _events_of(state, "two") == [3]


def test_a_replay_that_a_crash_cut_within_a_command_goes_on_with_it() -> None:
    store = MemoryStateStore()
    state = _state(store)
    _replay(state, "one", "one")
    state.checkpoint()
    again = _state(store)
    _replay(again, "one", "two")
    assert _events_of(again, "one") == [1, 2, 3]


def test_a_command_id_that_came_back_after_its_window_has_its_new_events_only() -> None:
    store = MemoryStateStore()
    state = _state(store)
    _replay(state, "one", "two", "one", "one")
    assert _events_of(state, "one") == [3, 4]
    state.checkpoint()
    again = _state(store)
    _replay(again, "two")
    assert _events_of(again, "two") == [5]


def test_an_event_behind_a_commit_of_ours_is_folded_after_it() -> None:
    state = _state(MemoryStateStore())
    _replay(state, "one")
    _publish(state, 2, "a")
    _replay(state, "one")
    assert _events_of(state, "one") == [3]


def _replay(state: PartitionState, *command_ids: str) -> None:
    """Fold the next events of the log; each is of the command named."""
    for command_id in command_ids:
        record = _stored(state.anchor.sequence + 1, command_id)
        assert state.replay(record, CODEC) is Verdict.NEXT


def _stored(sequence: int, command_id: str) -> StoredRecord:
    metadata = EventMetadata(
        message_id=f"m-{sequence}",
        type=counter.context.full_name(Counted),
        subject="a",
        recorded_at="2026-01-31T12:00:00.000000Z",
        sequence=sequence,
        version=sequence,
        correlation_id="test",
        causation_id=command_id,
        command_hash="hash",
        traceparent="",
    )
    headers = event_headers(metadata, counter.context.source)
    return StoredRecord(sequence, b"a", CODEC.encode(Counted(counter_id="a")), [*headers])


def _events_of(state: PartitionState, command_id: str) -> list[int]:
    seen = state.seen(command_id)
    return [sequence for _, sequence in seen.events] if seen else []
