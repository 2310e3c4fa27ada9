"""What rows have heeded: up to where people's decisions are in them.

Pure. Everybody who writes rows of a generation must know at least what they have heeded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tidelog.engine.folding import Decision, Decisions
from tidelog.errors import Unavailable

Heeded = str
"""Up to where the decisions are heeded, by partition of their log: `0:17,3:4`; empty for none."""


def reach_of(decisions: Collection[Decision]) -> Heeded:
    """Up to where these decisions go."""
    reached: dict[int, int] = {}
    for each in decisions:
        reached[each.number] = max(each.sequence, reached.get(each.number, 0))
    return _written(reached)


def merged(one: Heeded, other: Heeded) -> Heeded:
    """As far as either of them goes."""
    ours, theirs = _read(one), _read(other)
    both = {n: max(ours.get(n, 0), theirs.get(n, 0)) for n in ours.keys() | theirs.keys()}
    return _written(both)


def known_of(decisions: Decisions) -> Heeded:
    """Up to where somebody knows the decisions who has this mapping, which may grow."""
    return reach_of(list(decisions.values()))


def covers(known: Heeded, heeded: Heeded) -> bool:
    """Whether somebody who knows so much knows all that was heeded."""
    own = _read(known)
    return all(own.get(number, 0) >= sequence for number, sequence in _read(heeded).items())


def check_known(decisions: Decisions, heeded: Collection[Heeded], table: str) -> None:
    """Raise Unavailable where rows have heeded decisions that are not known here yet.

    To fold without them would undo what others have folded again.
    """
    known = known_of(decisions) if any(heeded) else ""
    for each in heeded:
        if not covers(known, each):
            raise Unavailable(
                f"{table} has heeded decisions up to {each}, and here they are known up to "
                f"{known or 'none'}: waiting until they are read."
            )


def _read(heeded: Heeded) -> dict[int, int]:
    pairs = (each.partition(":") for each in heeded.split(",") if each)
    return {int(number): int(sequence) for number, _, sequence in pairs}


def _written(reached: Mapping[int, int]) -> Heeded:
    return ",".join(f"{number}:{sequence}" for number, sequence in sorted(reached.items()))
