"""Given the batches of a partition's files, when an owner wrote after it was fenced, it is seen."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.torture.tenures import CONTROL, HEADER, Batch, batches, check_tenures, tenures

A, B = 1000, 1001


def log(*written: tuple[int, int]) -> list[Batch]:
    """Batches of (producer, epoch), one after the other."""
    return [Batch(offset, producer, epoch) for offset, (producer, epoch) in enumerate(written)]


def faults(*written: tuple[int, int]) -> list[str]:
    return check_tenures("orders:0", tenures(log(*written)))


def test_a_tenure_begins_where_the_epoch_of_the_first_producer_goes_up() -> None:
    rows = tenures(log((A, 0), (B, 0), (A, 0), (A, 1), (A, 3), (B, 2)))
    assert [[batch.offset for batch in row] for row in rows] == [[0, 1, 2], [3], [4, 5]]


def test_owners_that_write_in_turn_are_in_order() -> None:
    assert faults((A, 0), (B, 0), (A, 0), (A, 2), (B, 1), (A, 2), (A, 3), (B, 4)) == []


def test_an_earlier_epoch_behind_a_later_one_is_found() -> None:
    (fault,) = faults((A, 0), (A, 1), (A, 0))
    assert "orders:0: a record at 2 of producer 1000, epoch 0" in fault


def test_the_second_producer_of_a_fenced_owner_is_found_before_its_next_one_has_written() -> None:
    # given the next owner has fenced both and written on a only, when the one before writes on b
    (fault,) = faults((A, 0), (B, 0), (A, 1), (B, 0))
    assert "a record at 3 of producer 1001, epoch 0, lies in tenure 2" in fault


def test_batches_are_read_from_segments_and_markers_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "00000000000000000000.log").write_bytes(raw(0, A, 0) + raw(2, A, 0, CONTROL))
    (tmp_path / "00000000000000000003.log").write_bytes(raw(3, B, 7) + bytes(100))
    assert [*batches(tmp_path)] == [Batch(0, A, 0), Batch(3, B, 7)]


def raw(offset: int, producer: int, epoch: int, attributes: int = 0) -> bytes:
    """One record batch with a body of ten bytes."""
    length = HEADER.size - struct.calcsize(">qi") + 10
    head = HEADER.pack(offset, length, 0, 2, 0, attributes, 0, 0, 0, producer, epoch, 0, 1)
    return head + bytes(10)
