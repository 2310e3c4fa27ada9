"""`GET /sagas`, `GET /sagas/{id}`: every process that runs or ran, step by step.

What is shown is the sagas' own table, and the work outside that belongs to an instance. What an
instance waits for is told by its definition.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, Text, bindparam, column, select, text
from starlette.requests import Request
from starlette.responses import Response

from query_service.lists import DIGEST_BYTES, Filter, Listing, ListQuery, Sort
from query_service.parameters import Parameter, identifier, one_of
from query_service.parked import Present
from query_service.reads import Reads, checked_parameters, compiled, tagged
from query_service.rows import Shown
from tidelog.engine.reacting import DecisionRecord, Instance, StepRecord
from tidelog.errors import Invalid, Unknown
from tidelog.message import ID_PATTERN, Event
from tidelog.saga import ENDS, Saga, current_step

PATH = "/sagas"
STATUSES = ("running", "completed", "compensated", "failed", "stuck")

FILTERS = (
    Filter(identifier("saga", "The name of a saga, such as fulfilment."), "saga", str),
    Filter(one_of("status", STATUSES, "How the instance stands."), "status", str),
)
SORTS: Mapping[str, Sort] = {
    "-started_at": Sort({"started_at": datetime, "saga": str, "key": str}, descending=True)
}

_ID = re.compile(ID_PATTERN)
_COLUMNS = ("saga", "key", "status", "started_at", "ended_at", "instance", "parked", "effects")

# A key whose first reaction failed has no instance yet: it is parked, and shown like the others.
_INSTANCES = """
SELECT i.saga, i.key, coalesce(i.started_at, p.parked_at) AS started_at, i.ended_at,
  CASE WHEN p.key IS NOT NULL OR i.stuck <> '' THEN 'stuck'
    WHEN i.ended_at IS NOT NULL THEN i.phase ELSE 'running' END AS status,
  i.instance::text AS instance, p.error_type || ': ' || p.error AS parked, {effects} AS effects
FROM "{schema}".saga_instances AS i
LEFT JOIN "{schema}".saga_parked AS p ON p.saga = i.saga AND p.key = i.key
WHERE i.phase IS NOT NULL OR p.key IS NOT NULL
"""

# Work belongs to the instance that its event names, in the same correlation: a return of an order
# has its own.
_EFFECTS = """(
  SELECT json_agg(json_build_object('step', e.effect, 'status', e.status, 'command_id', e.id,
    'attempts', e.attempts, 'at', e.since, 'error', e.error) ORDER BY e.since, e.id)::text
  FROM (
    SELECT w.id, w.effect, w.attempts, w.since, w.error, w.correlation_id, w.data,
      CASE w.status WHEN 'parked' THEN 'failed' ELSE 'pending' END AS status
    FROM "{schema}".effect_work AS w WHERE w.correlation_id = i.correlation_id
    UNION ALL
    SELECT d.id, d.effect, d.attempts, d.since, '', d.correlation_id, d.data, 'done'
    FROM "{schema}".effect_ended AS d WHERE d.correlation_id = i.correlation_id
  ) AS e
  JOIN (VALUES {keys}) AS k(saga, field) ON k.saga = i.saga AND e.data ->> k.field = i.key
)"""

_NO_EFFECTS = "NULL::text"

_TABLES = ("saga_instances", "saga_parked", "effect_work", "effect_ended")

_THERE = """
SELECT t.name FROM (VALUES {names}) AS t(name)
WHERE to_regclass('"{schema}".' || t.name) IS NOT NULL
"""


class Sagas:
    """The queries over sagas. They wait for no token: what they show is no read model."""

    def __init__(self, reads: Reads, sagas: Sequence[Saga[Any]]) -> None:
        self._reads = Present(
            database=reads.database, listener=reads.listener, contexts=(), partitions=0
        )
        self._sagas = sagas
        self._tables: frozenset[str] = frozenset()
        self._found: Statements | None = None

    async def list(self, request: Request) -> Response:
        """Instances of sagas, the newest first."""
        found = await self._statements()
        if found is None:
            checked_parameters(request, tuple(each.name for each in PARAMETERS))
            body = msgspec.json.encode({"items": [], "next_cursor": None})
            return _tagged(request, body)
        return await found.list.answer(request)

    async def one(self, request: Request) -> Response:
        """One instance: `fulfilment:<order_id>`, `returns:<return_id>`."""
        checked_parameters(request, ("wait_ms",))
        saga, colon, key = str(request.path_params["id"]).partition(":")
        if not colon or not _ID.match(saga) or not _ID.match(key):
            raise Invalid("The id of an instance reads <saga>:<key>, as fulfilment:o-1.", "/id")
        found = await self._statements()
        rows: Sequence[Any] = ()
        if found is not None:
            values = {"saga": saga, "key": key}
            rows = await self._reads.database.rows(found.one, values)
        if found is None or not rows:
            raise Unknown("There is no such instance of a saga.")
        return _tagged(request, msgspec.json.encode(found.shown.document(rows[0])))

    async def _statements(self) -> Statements | None:
        """The statements over the tables that are there; None before the sagas have run."""
        if len(self._tables) < len(_TABLES):
            schema = self._reads.database.schema
            names = ", ".join(f"('{name}')" for name in _TABLES)
            statement = _THERE.format(schema=schema, names=names).encode()
            rows = await self._reads.database.rows(statement, {})
            there = frozenset(str(name) for (name,) in rows)
            if there != self._tables and {"saga_instances", "saga_parked"} <= there:
                self._found = Statements.over(self._reads, self._sagas, there)
            self._tables = there
        return self._found


@dataclass(frozen=True, kw_only=True)
class Statements:
    """What is asked of the tables that are there."""

    shown: Instances
    list: ListQuery
    one: bytes

    @classmethod
    def over(cls, reads: Reads, sagas: Sequence[Saga[Any]], tables: frozenset[str]) -> Statements:
        """Over these tables; without those of the effects no effects are shown."""
        effects = {"effect_work", "effect_ended"} <= tables
        shown = Instances(
            projection="sagas",
            key="key",
            fields={name: name for name in _COLUMNS},
            waits={saga.name: Waits(saga) for saga in sagas},
            keys={saga.name: saga.key for saga in sagas} if effects else {},
        )
        statement = shown.select(reads.database.schema).where(
            column("saga") == bindparam("saga", type_=Text),
            column("key") == bindparam("key", type_=Text),
        )
        listing = Listing(path=PATH, shown=shown, sorts=SORTS, filters=FILTERS)
        return cls(shown=shown, list=ListQuery(reads, listing), one=compiled(statement))


class Waits:
    """What the instances of one saga wait for, by its definition."""

    def __init__(self, saga: Saga[Any]) -> None:
        self._saga = saga
        self._contexts = {
            event: context.name for context in saga.contexts for event in context.event_types
        }
        self._types = {event.__name__: event for event in saga.event_types}
        self._answers: dict[str, tuple[type[Event], ...]] = {
            **{each.step: each.answers for each in (*saga.steps, *saga.failures)},
            **{each.name: each.answers for each in saga.order},
            **{each.step: each.answers for each in saga.undoing},
        }
        self._state = type(saga.initial)

    def expected_next(self, instance: Instance[Any]) -> list[str]:
        """The events that it waits for, by name.

        They answer its pending commands. Where none is pending the last answer has only begun
        something out in the world: it waits for what the same context says next.
        """
        if instance.phase in ENDS:
            return []
        found = [
            event
            for record in instance.steps
            if record.status == "pending"
            for event in self._answers.get(record.step, ())
        ]
        if not found and instance.phase == "forward":
            found = [*self._of_the_world(instance)]
        return list(dict.fromkeys(event.__name__ for event in found))

    def _of_the_world(self, instance: Instance[Any]) -> Iterator[type[Event]]:
        """What the context of the last answer may say next, and the saga would act upon."""
        try:
            state = msgspec.convert(instance.state, self._state)
        except msgspec.ValidationError:  # Of another version of the sagas than is known here.
            return
        step = current_step(self._saga.order, state)
        if step is not None:
            heard = {record.event_type for record in instance.steps if record.step == step.name}
            yield from (event for event in step.answers if event.__name__ not in heard)
            return
        answered = [record for record in instance.steps if record.event_type in self._types]
        if answered:
            last = max(answered, key=lambda record: record.answered_at or record.at)
            context = self._contexts[self._types[last.event_type or ""]]
            known = self._answers.get(last.step, ())
            for event in self._saga.reactions:
                if self._contexts[event] == context and event not in known:
                    yield event


@dataclass(frozen=True, kw_only=True)
class Instances(Shown):
    """The rows of the instances, with what their definitions say.

    `keys` are the fields by which events name their instance; without them no effects are shown.
    """

    waits: Mapping[str, Waits]
    keys: Mapping[str, str] = field(default_factory=dict)

    def select(self, schema: str, *before: str) -> Select[Any]:
        """The fields of all rows, behind the columns that are named here."""
        kept: list[ColumnElement[Any]] = [column(name) for name in before]
        keys = ", ".join(f"('{saga}', '{name}')" for saga, name in self.keys.items())
        effects = _EFFECTS.format(schema=schema, keys=keys) if keys else _NO_EFFECTS
        query = _INSTANCES.format(schema=schema, effects=effects)
        rows = text(query).columns(*map(column, _COLUMNS))
        return select(*kept, *map(column, _COLUMNS)).select_from(rows.subquery("instances"))

    def document(self, values: Sequence[Any]) -> dict[str, Any]:
        """The instance as it is shown."""
        saga, key, status, started_at, ended_at, stored, parked, effects = values
        waits = self.waits.get(saga)
        instance = None if stored is None else _INSTANCE.decode(stored)
        steps = [_step(record) for record in instance.steps] if instance else []
        if effects is not None:
            done = msgspec.json.decode(effects, type=list[EffectShown])
            steps = sorted([*steps, *map(_effect, done)], key=lambda each: each["at"])
        return {
            "id": f"{saga}:{key}",
            "saga": saga,
            "key": key,
            "status": status,
            "started_at": started_at,
            "ended_at": ended_at,
            "deadline": _deadline(instance),
            "age_seconds": round(((ended_at or datetime.now(UTC)) - started_at).total_seconds(), 1),
            "expected_next": waits.expected_next(instance) if waits and instance else [],
            "stuck": _stuck(instance, parked),
            "steps": steps,
            "decisions": [_decision(each) for each in instance.decisions] if instance else [],
        }


class EffectShown(msgspec.Struct, frozen=True, kw_only=True):
    """Work outside that belongs to an instance."""

    step: str
    status: str
    command_id: str
    attempts: int
    at: datetime
    error: str


def _deadline(instance: Instance[Any] | None) -> datetime | None:
    """The deadline that ends first; another try of a compensation is none."""
    due = instance.due if instance is not None else {}
    return min((at for name, at in due.items() if not name.startswith("again:")), default=None)


def _stuck(instance: Instance[Any] | None, parked: str | None) -> str | None:
    """Why the instance waits for a person or for another try; None where it does not."""
    if parked is not None:
        return f"a reaction failed: {parked}"
    return (instance.stuck or None) if instance is not None else None


def _step(record: StepRecord) -> dict[str, Any]:
    return {
        "step": record.step,
        "kind": "compensation" if record.kind == "compensation" else "step",
        "status": record.status,
        "event_type": record.event_type,
        "position": record.position,
        "command_id": record.command_id,
        "attempts": record.attempts,
        "at": record.at,
        "reason": record.reason,
    }


def _effect(work: EffectShown) -> dict[str, Any]:
    return {
        "step": work.step,
        "kind": "effect",
        "status": work.status,
        "event_type": None,
        "position": None,
        "command_id": work.command_id,
        "attempts": work.attempts,
        "at": work.at,
        "reason": work.error or None,
    }


def _decision(made: DecisionRecord) -> dict[str, Any]:
    return {
        "decision": made.decision,
        "step": made.step or None,
        "operator": made.operator,
        "reason": made.reason,
        "at": made.at,
        "position": made.position,
        "target": made.target,
        "status": "refused" if made.refused else "done",
        "refused": made.refused or None,
    }


def _tagged(request: Request, body: bytes) -> Response:
    return tagged(request, body, hashlib.blake2b(body, digest_size=DIGEST_BYTES).hexdigest(), "")


# The state in it is read by whoever knows the saga.
_INSTANCE: msgspec.json.Decoder[Instance[Any]] = msgspec.json.Decoder(Instance[Any])

PARAMETERS: tuple[Parameter, ...] = Listing(
    path=PATH,
    shown=Shown(projection="sagas", key="key", fields={}),
    sorts=SORTS,
    filters=FILTERS,
).parameters
