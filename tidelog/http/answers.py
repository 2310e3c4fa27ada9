"""What became of a command, as the body of an answer (and of an operation's `result`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from tidelog.engine.command import Recorded, Unchanged


class Answer(NamedTuple):
    """A command's answer: its status, version, token (None if the aggregate has none) and body."""

    status: int
    version: int
    token: str | None
    body: bytes


def answer_of(outcome: Recorded | Unchanged, context: str, partition: int, id: str) -> Answer:
    """The answer, written by hand: every value in it is of a safe alphabet."""
    place = f"{context}:{partition}:"
    if isinstance(outcome, Unchanged):
        token = f"{place}{outcome.sequence}" if outcome.sequence else None
        return Answer(200, outcome.version, token, _body(id, outcome.version, "", token, False))
    events = ",".join(
        [
            f'{{"type":"{type_}","position":"{place}{sequence}"}}'
            for type_, sequence in outcome.events
        ]
    )
    token = f"{place}{outcome.events[-1][1]}"
    body = _body(id, outcome.version, events, token, outcome.replayed)
    return Answer(201, outcome.version, token, body)


def result_of(
    outcome: Recorded | Unchanged, context: str, partition: int, id: str
) -> dict[str, Any]:
    """The same body as a value, for a store of operations."""
    result: dict[str, Any] = msgspec.json.decode(answer_of(outcome, context, partition, id).body)
    return result


def _body(id: str, version: int, events: str, token: str | None, replayed: bool) -> bytes:
    token_part = f'"token":"{token}",' if token else ""
    replayed_part = "true" if replayed else "false"
    return (
        f'{{"id":"{id}","version":{version},"events":[{events}],'
        f'{token_part}"replayed":{replayed_part}}}'
    ).encode("ascii")
