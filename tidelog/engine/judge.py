"""How every reader of the log judges a record: the next one, an old one, or a sign of trouble.

`ce_sequence` counts a partition's events 1, 2, 3, … without gaps; Kafka's offsets only grow. The
two together tell a redelivery from a fork and a transaction marker from a lost event.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Progress(NamedTuple):
    """How far a reader of one partition is: the last sequence and the last offset it took in."""

    sequence: int = 0
    offset: int = -1


class Verdict(Enum):
    """What a reader does with a record."""

    NEXT = "next"  # take it in
    REDELIVERY = "redelivery"  # skip it: it was taken in before
    FOREIGN = "foreign"  # park it, alarm, go on: it is not ours
    HOLE = "hole"  # rewind once; the same hole again stops the partition
    FORK = "fork"  # park it, alarm, partition red: two writers gave one sequence


def judge(progress: tuple[int, int], offset: int, sequence: int | None) -> Verdict:
    """Judge the record at `offset`; `progress` is a Progress, or the two numbers of one.

    `sequence` is None where the record is not ours.
    """
    last, at = progress
    if offset <= at:
        return _REDELIVERY
    if sequence is None:
        return _FOREIGN
    if sequence == last + 1:
        return _NEXT
    return _HOLE if sequence > last else _FORK


# An attribute of an enumeration costs as much as the whole judgement.
_NEXT, _REDELIVERY, _FOREIGN = Verdict.NEXT, Verdict.REDELIVERY, Verdict.FOREIGN
_HOLE, _FORK = Verdict.HOLE, Verdict.FORK
