"""What a committed batch tells the readers: which generation of which projection is how far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tidelog.position import Position, format_token, parse_token
from tidelog.postgres.tables import Generation

CHANNEL = "tidelog_positions"
PARKED_CHANNEL = "tidelog_parked"

# A payload has at most 8,000 bytes; 64 positions of at most 100 are well below.
_POSITIONS_PER_NOTICE = 64


class Notice(NamedTuple):
    """One notification: in this schema, this generation has reached these positions."""

    schema: str
    generation: Generation
    positions: tuple[Position, ...]


def notices(schema: str, generation: Generation, positions: Sequence[Position]) -> Iterator[str]:
    """The payloads that tell the positions."""
    name, version, number = generation
    for start in range(0, len(positions), _POSITIONS_PER_NOTICE):
        token = format_token(positions[start : start + _POSITIONS_PER_NOTICE])
        yield f"{schema} {name} {version} {number} {token}"


def parked_notice(schema: str, generation: Generation) -> str:
    """The payload that tells that a key of the generation is parked now.

    It goes out before the positions of its transaction, so that whoever waits for those knows.
    """
    name, version, number = generation
    return f"{schema} {name} {version} {number}"


def read_parked_notice(payload: str) -> tuple[str, Generation]:
    """The schema and the generation that the payload tells of; ValueError if it is not ours."""
    schema, name, version, number = payload.split(" ")
    return schema, Generation(name, int(version), int(number))


def switched_notice(schema: str, generation: Generation) -> str:
    """The payload that tells of a switch: a generation that nobody knows has every listener look.

    No generation has the number 0.
    """
    name, version, _ = generation
    return f"{schema} {name} {version} 0 switched:0:0"


def read_notice(payload: str) -> Notice:
    """The payload as it was meant; ValueError or Malformed where it is none of ours."""
    schema, name, version, number, token = payload.split(" ")
    generation = Generation(name, int(version), int(number))
    return Notice(schema, generation, parse_token(token))
