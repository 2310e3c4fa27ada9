"""The writer of a partition, driven by hand: each test is a sentence about it."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.unit.writer_bench import (
    Bench,
    Break,
    Close,
    Open,
    recorded,
    refusal,
)
from tidelog.engine.actions import (
    Append,
    Commit,
    Fence,
    FindEnd,
    Phase,
    Read,
    Reset,
    Slot,
)
from tidelog.engine.command import MUST_EXIST, Refused, Unchanged
from tidelog.engine.ports import Anchor, Checkpoint, Limits, OutgoingRecord
from tidelog.errors import (
    CommandFault,
    IdempotencyKeyReused,
    Invalid,
    NotOwner,
    Overloaded,
    StaleVersion,
    Unavailable,
)
from tidelog.memory import MemoryLog, MemoryStateStore, ProducerFenced

# --- the order of things ----------------------------------------------------------------------


def test_the_next_transaction_sends_nothing_before_the_first_one_s_records_have_offsets() -> None:
    bench = Bench().proven()
    bench.offer("anna", Open(door_id="anna"))
    bench.decide()
    append = bench.next()
    assert isinstance(append, Append)
    bench.append(append)
    assert bench.next() == Commit(Slot.B, 1)
    bench.offer("bert", Open(door_id="bert"))
    bench.decide()
    assert bench.next() is None
    bench.writer.delivered()
    append = bench.next()
    assert isinstance(append, Append)
    assert append.slot is Slot.A


def test_the_ids_are_fenced_in_order_and_the_end_is_looked_up_after_both() -> None:
    bench = Bench()
    done = [bench.do() for _ in range(3)]
    assert done == [Fence(Slot.A), Fence(Slot.B), FindEnd()]
    assert bench.writer.serving


def test_the_first_transaction_of_a_tenure_goes_alone_on_a() -> None:
    bench = Bench().serve()
    bench.offer("anna", Open(door_id="anna"))
    bench.decide()
    append = bench.next()
    assert isinstance(append, Append)
    assert (append.slot, append.begin) == (Slot.A, True)
    bench.append(append)
    assert bench.next() == Commit(Slot.A, 1)
    bench.offer("bert", Open(door_id="bert"))
    bench.decide()
    assert (bench.writer.queued, bench.next()) == (1, None)


def test_two_takeovers_at_once_cannot_fork_the_log() -> None:
    log = MemoryLog()
    one, two = Bench(log), Bench(log)
    assert one.do() == Fence(Slot.A)
    two.serve()
    one.serve()
    two.offer("two", Open(door_id="anna"))
    two.settle()
    one.offer("one", Open(door_id="bert"))
    one.decide()
    append = one.next()
    assert isinstance(append, Append)
    with pytest.raises(ProducerFenced):
        one.append(append)
    assert [record.offset for record in log.read(0)[0]] == [0]


def test_nothing_is_decided_in_a_new_tenure_without_a_lease() -> None:
    bench = Bench().serve()
    bench.offer("anna", Open(door_id="anna"))
    bench.decide(sure=False)
    assert (bench.writer.queued, bench.next()) == (1, None)
    bench.decide(sure=True)
    assert isinstance(bench.next(), Append)


def test_without_a_lease_a_refusal_is_not_ours_to_give_but_a_replay_is() -> None:
    bench = Bench().proven()
    bench.offer("refused", Close(door_id="anna"))
    bench.offer("again", Open(door_id="first"), command_id="first")
    bench.decide(sure=False)
    assert refusal(bench.answers["refused"]) is NotOwner
    assert bench.answers["again"] == recorded(("Opened", 1), version=1, replayed=True)


def test_without_a_lease_nothing_overtakes_a_refusal_of_its_key() -> None:
    bench = Bench().proven()
    bench.offer("refused", Close(door_id="anna"))
    bench.offer("behind", Open(door_id="anna"))
    bench.offer("other", Open(door_id="bert"))
    bench.settle(sure=False)
    assert refusal(bench.answers["behind"]) is NotOwner
    assert bench.answers["other"] == recorded(("Opened", 2), version=1)


# --- batches ----------------------------------------------------------------------------------


def test_a_batch_is_cut_by_commands_and_by_bytes() -> None:
    for limits in (Limits(batch_commands_max=2), Limits(batch_bytes_max=2_000)):
        bench = Bench(limits=limits).serve()
        for number in range(5):
            bench.offer(f"c{number}", Open(door_id=f"d{number}"))
        bench.decide()
        append = bench.next()
        assert isinstance(append, Append)
        assert len(append.records) == 2


def test_after_a_failed_batch_each_command_is_tried_alone_even_the_last_one() -> None:
    bench = Bench().proven()
    for number in range(3):
        bench.offer(f"c{number}", Open(door_id=f"d{number}"))
    bench.decide()
    bench.writer.failed()
    assert [bench.do(), bench.do()] == [Reset(1), Fence(Slot.A)]
    assert bench.next() == Fence(Slot.B)
    bench.writer.failed()  # a failure on the way does not forget it
    bench.serve()
    bench.offer("late", Open(door_id="late"))
    sizes = []
    while not bench.writer.idle:
        bench.decide()
        action = bench.do()
        if isinstance(action, Commit):
            sizes.append(action.records)
    assert sizes == [1, 1, 1, 1]


def test_a_command_that_fails_too_often_is_told_that_nobody_knows_yet() -> None:
    bench = Bench(limits=Limits(attempts_max=2)).proven()
    bench.offer("tired", Open(door_id="anna"))
    for _ in range(2):
        bench.decide()
        bench.writer.failed()
        bench.serve()
    bench.answer()
    assert refusal(bench.answers["tired"]) is Unavailable


@pytest.mark.parametrize(
    ("how", "error"), [("decide", CommandFault), ("encode", CommandFault), ("size", Invalid)]
)
def test_a_poison_command_harms_only_itself(
    how: Literal["decide", "encode", "size"], error: type[Exception]
) -> None:
    bench = Bench().serve()
    bench.offer("before", Open(door_id="anna"))
    bench.offer("poison", Break(door_id="bert", how=how))
    bench.offer("after", Open(door_id="bert"))
    bench.settle()
    assert refusal(bench.answers["poison"]) is error
    assert bench.answers["before"] == recorded(("Opened", 1), version=1)
    assert bench.answers["after"] == recorded(("Opened", 2), version=1)


# --- answers ----------------------------------------------------------------------------------


def test_a_second_request_with_the_id_waits_and_gets_the_replay() -> None:
    bench = Bench().serve()
    bench.offer("one", Open(door_id="anna"), command_id="id")
    bench.offer("two", Open(door_id="anna"), command_id="id")
    bench.decide()
    assert bench.answers == {}
    bench.settle()
    assert bench.answers["one"] == recorded(("Opened", 1), version=1)
    assert bench.answers["two"] == recorded(("Opened", 1), version=1, replayed=True)


def test_the_same_id_with_other_content_is_refused_for_ever() -> None:
    bench = Bench().serve()
    bench.offer("one", Open(door_id="anna"), command_id="id")
    bench.offer("other", Close(door_id="anna"), command_id="id")
    bench.settle()
    assert refusal(bench.answers["other"]) is IdempotencyKeyReused
    again = Bench(bench.log).serve()
    again.offer("later", Close(door_id="anna"), command_id="id")
    again.settle()
    assert refusal(again.answers["later"]) is IdempotencyKeyReused


def test_if_match_is_judged_by_what_is_on_its_way() -> None:
    bench = Bench().serve()
    bench.offer("open", Open(door_id="anna"), expected_version=0)
    bench.offer("close", Close(door_id="anna"), expected_version=1)
    bench.offer("stale", Open(door_id="anna"), expected_version=1)
    bench.offer("absent", Open(door_id="bert"), expected_version=MUST_EXIST)
    bench.settle()
    assert bench.answers["close"] == recorded(("Closed", 2), version=2)
    stale = bench.answers["stale"]
    assert isinstance(stale, Refused)
    assert isinstance(stale.error, StaleVersion)
    assert stale.error.actual_version == 2
    assert refusal(bench.answers["absent"]) is StaleVersion


def test_a_command_that_changes_nothing_names_the_last_sequence() -> None:
    bench = Bench().proven()
    bench.offer("again", Open(door_id="first"))
    bench.settle()
    assert bench.answers["again"] == Unchanged(version=1, sequence=1)


def test_a_full_queue_and_a_stopped_writer_refuse_at_once() -> None:
    bench = Bench(limits=Limits(queue_commands_max=1))
    bench.offer("one", Open(door_id="anna"))
    with pytest.raises(Overloaded):
        bench.offer("two", Open(door_id="anna"))
    bench.writer.stop(NotOwner("moved"))
    bench.answer()
    assert refusal(bench.answers["one"]) is NotOwner
    with pytest.raises(NotOwner):
        bench.offer("three", Open(door_id="anna"))


def test_an_uncertain_commit_that_landed_is_found_and_not_repeated() -> None:
    bench = Bench().proven()
    bench.offer("anna", Open(door_id="anna"))
    bench.decide()
    append = bench.next()
    assert isinstance(append, Append)
    bench.append(append)
    assert bench.next() == Commit(Slot.B, 1)
    bench.log.end("b", bench.epochs[Slot.B], commit=True)
    bench.writer.failed()
    bench.serve().settle()
    assert bench.answers["anna"] == recorded(("Opened", 2), version=1)
    assert len(bench.log.read(0)[0]) == 2


# --- the log and the checkpoint ---------------------------------------------------------------


def _foreign() -> OutgoingRecord:
    return OutgoingRecord(b"anna", b"not ours", [])


def _with_sequence(bench: Bench, sequence: int) -> OutgoingRecord:
    """The first record again, as another writer would have numbered it."""
    record = bench.log.read(0)[0][0]
    headers = [
        (name, b"%d" % sequence if name == "ce_sequence" else value or b"")
        for name, value in record.headers
    ]
    return OutgoingRecord(record.key or b"", record.value or b"", headers)


def test_a_foreign_record_is_counted_and_passed_over() -> None:
    bench = Bench().proven()
    bench.log.append_plain(_foreign())
    again = Bench(bench.log).serve()
    assert (again.writer.replay.foreign_records, again.writer.state.anchor.sequence) == (1, 1)


def test_a_hole_is_read_again_once_and_then_stops_the_partition() -> None:
    bench = Bench().proven()
    bench.log.append_plain(_with_sequence(bench, 3))
    again = Bench(bench.log)
    reads = []
    while again.writer.phase is not Phase.BROKEN:
        action = again.do()
        if isinstance(action, Read):
            reads.append(action.offset)
    assert reads == [0, 1]
    with pytest.raises(Unavailable):
        again.offer("anna", Open(door_id="anna"))


def test_a_fork_stops_the_partition_at_once() -> None:
    bench = Bench().proven()
    bench.log.append_plain(_with_sequence(bench, 1))
    again = Bench(bench.log)
    while again.writer.phase is not Phase.BROKEN:
        again.do()
    assert "twice" in str(again.writer.broken)


def test_a_checkpoint_of_another_log_is_thrown_away_and_all_is_read() -> None:
    bench = Bench().proven()
    store = MemoryStateStore()
    store.write(Checkpoint({}, {}, Anchor(1, 0, "of another log"), ""))
    again = Bench(bench.log, store).serve()
    assert again.writer.replay.distrusted_checkpoints == 1
    assert again.writer.state.entry("first").version == 1


def test_what_lies_beyond_the_end_that_was_found_is_not_taken_in() -> None:
    log = MemoryLog()
    late = Bench(log)
    log.append_plain(_foreign())
    for _ in range(3):
        late.do()
    Bench(log).proven()
    late.serve()
    assert late.writer.state.anchor.sequence == 0
