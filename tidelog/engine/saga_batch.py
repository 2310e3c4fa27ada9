"""A batch of events through the instances of one saga: who reacts, who waits, who is parked.

Pure. An event that comes before its instance is held for its key, and heard when the instance
begins. A reaction that fails parks its key: the event and all later ones of the key are held, in
order, until a retry succeeds; other keys go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tidelog.engine.reacting import Heard, Instance, Reactor, Request
from tidelog.engine.reading import Fact


class SagaRow(NamedTuple):
    """What is stored for a key: its instance, if it has begun, and the events that wait for it."""

    instance: Instance[Any] | None
    parked: bool
    held: Sequence[Heard]


NOTHING = SagaRow(None, False, ())


class ParkedSaga(NamedTuple):
    """A key whose reaction failed, and the event at which it did."""

    key: str
    heard: Heard
    error: Exception


class SagaChanges(NamedTuple):
    """What a batch changes: instances, requests for the outbox by key, and what waits."""

    instances: dict[str, Instance[Any]]
    requests: list[tuple[str, Request]]
    held: list[tuple[str, Heard]]
    released: list[str]
    """Keys whose held events were heard: they wait no more."""
    parked: list[ParkedSaga]


def heard_by_key(reactor: Reactor, facts: Iterable[Fact]) -> dict[str, list[Heard]]:
    """The events that the saga hears, by instance, each instance's in the order of the batch."""
    types, key_of = reactor.heard_types, reactor.saga.key_of
    found: dict[str, list[Heard]] = {}
    for fact in facts:
        if type(fact.event) in types:
            event: Any = fact.event
            key = key_of(event)
            if key is not None:
                found.setdefault(key, []).append(_heard(fact))
    return found


def react_all(
    reactor: Reactor, events: Mapping[str, Sequence[Heard]], rows: Mapping[str, SagaRow]
) -> SagaChanges:
    """React to the events of each key, given what is stored for it."""
    changes = SagaChanges({}, [], [], [], [])
    for key, heard in events.items():
        row = rows.get(key, NOTHING)
        if row.parked:
            changes.held.extend((key, each) for each in heard)
        else:
            _react_one(reactor, key, row, heard, changes)
    return changes


def retry_parked(reactor: Reactor, key: str, row: SagaRow) -> SagaChanges:
    """Try a parked key again: all that is held for it, in order. Where it fails, it stays."""
    changes = SagaChanges({}, [], [], [], [])
    _react_one(reactor, key, row._replace(held=()), row.held, changes)
    if changes.parked:
        return SagaChanges({}, [], [], [], changes.parked)
    changes.released.append(key)
    return changes


def _react_one(
    reactor: Reactor, key: str, row: SagaRow, heard: Sequence[Heard], changes: SagaChanges
) -> None:
    """React to one key's events; those that came too early are heard right after the first."""
    instance, early, fresh = row.instance, list(row.held), list[Heard]()
    queue = deque(heard)
    while queue:
        each = queue.popleft()
        try:
            reacted = reactor.react(instance, each)
        except Exception as error:
            changes.parked.append(ParkedSaga(key, each, error))
            fresh += (each, *queue)
            break
        if reacted.instance is None:
            fresh.append(each)
            continue
        instance = reacted.instance
        changes.requests.extend((key, request) for request in reacted.requests)
        if early:
            changes.released.append(key)
        queue.extendleft(reversed([*early, *fresh]))
        early, fresh = [], []
    if instance is not None and instance is not row.instance:
        changes.instances[key] = instance
    changes.held.extend((key, each) for each in fresh)


def _heard(fact: Fact) -> Heard:
    metadata = fact.metadata
    event: Any = fact.event
    return Heard(
        event=event,
        message_id=metadata.message_id,
        causation_id=metadata.causation_id,
        correlation_id=metadata.correlation_id,
        traceparent=metadata.traceparent,
        position=fact.position,
        at=fact.recorded_at,
    )
