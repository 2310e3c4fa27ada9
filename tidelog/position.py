"""Positions in the log, as clients see them: `context:partition:sequence`.

A sequence is the gapless count of a partition's events; 0 means nothing yet. Several positions,
joined by commas, are a consistency token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from tidelog.errors import Malformed

POSITIONS_MAX = 64

_POSITION = re.compile(
    r"([a-z][a-z0-9_-]{0,62}):(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,17})", re.ASCII
)


class Position(NamedTuple):
    """The place after which `sequence` events of the partition have happened."""

    context: str
    partition: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.context}:{self.partition}:{self.sequence}"


def parse_position(text: str) -> Position:
    """Read `orders:3:1042`; anything else raises Malformed."""
    match = _POSITION.fullmatch(text)
    if match is None:
        raise Malformed("A position reads context:partition:sequence, for example orders:3:1042.")
    return Position(match[1], int(match[2]), int(match[3]))


def parse_token(text: str) -> tuple[Position, ...]:
    """Read a consistency token: 1 to 64 positions joined by commas."""
    parts = text.split(",")
    if len(parts) > POSITIONS_MAX:
        raise Malformed(f"A consistency token holds at most {POSITIONS_MAX} positions.")
    return tuple(parse_position(part.strip(" ")) for part in parts)


def format_token(positions: Iterable[Position]) -> str:
    """Positions joined by commas, in a stable order."""
    return ",".join(str(position) for position in sorted(positions))
