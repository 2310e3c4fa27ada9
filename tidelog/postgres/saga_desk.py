"""What becomes of sagas without an event: deadlines, refusals, and another try of what is parked.

Any number of processes may do this at once: each takes the rows that no other one holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString

from psycopg import Connection, sql

from tidelog.engine.reacting import Instance, Reacted, Reactor
from tidelog.engine.saga_batch import SagaChanges, retry_parked
from tidelog.postgres.connection import Reconnecting
from tidelog.postgres.saga_store import SagaRows

BATCH_MAX = 100

_DUE: LiteralString = """
SELECT key, instance::text FROM {instances}
WHERE saga = %s AND next_due <= %s ORDER BY next_due LIMIT %s FOR UPDATE SKIP LOCKED
"""

_OUTCOMES: LiteralString = """
SELECT c.command_id, c.key, o.status, coalesce(o.document #>> '{{problem,type}}', '')
FROM {commands} AS c JOIN {operations} AS o ON o.id = c.command_id
WHERE c.saga = %s AND o.status <> 'running' LIMIT %s FOR UPDATE OF c SKIP LOCKED
"""

_DUE_PARKED: LiteralString = """
SELECT key FROM {parked} WHERE saga = %s AND next_attempt_at <= %s
ORDER BY next_attempt_at LIMIT %s FOR UPDATE SKIP LOCKED
"""

_FORGET: LiteralString = "DELETE FROM {commands} WHERE command_id = ANY(%s::text[])"

_WAITING: LiteralString = """
SELECT count(*) FROM (
  SELECT key FROM {instances} WHERE saga = %s AND stuck <> ''
  UNION SELECT key FROM {parked} WHERE saga = %s
) AS waiting
"""


class SagaDesk:
    """Looks after the instances of some sagas. One thread uses it.

    `now` is handed in, so that tests may let time pass.
    """

    def __init__(self, reactors: Mapping[str, Reactor], *, dsn: str, schema: str) -> None:
        self._reactors = reactors
        self._rows = {name: SagaRows(reactor, schema) for name, reactor in reactors.items()}
        names = {
            "instances": sql.Identifier(schema, "saga_instances"),
            "commands": sql.Identifier(schema, "saga_commands"),
            "parked": sql.Identifier(schema, "saga_parked"),
            "operations": sql.Identifier(schema, "operations"),
        }
        self._operations = names["operations"]
        texts = (_DUE, _OUTCOMES, _DUE_PARKED, _FORGET, _WAITING)
        self._due, self._outcomes, self._due_parked, self._forget, self._waiting = (
            sql.SQL(text).format(**names) for text in texts
        )
        self._connection = Reconnecting(
            dsn,
            name="tidelog-saga-desk",
            options="-c lock_timeout=5000 -c statement_timeout=30000",
        )

    def remind(self, saga: str, now: datetime) -> int:
        """Do what is due now; how many instances had something due."""
        reactor, rows = self._reactors[saga], self._rows[saga]
        return self._each_due(saga, now, rows, lambda instance: reactor.remind(instance, now))

    def settle_commands(self, saga: str, now: datetime) -> int:
        """Take note of what became of the commands that were sent; how many those were."""
        with self._connection.transaction() as connection:
            if not self._has_outcomes(connection):
                return 0
            found = connection.execute(self._outcomes, (saga, BATCH_MAX)).fetchall()
            refused: dict[str, list[tuple[str, str]]] = {}
            for identity, key, status, problem in found:
                if status == "refused":
                    rule = problem.rpartition("/")[2] or "refused"
                    refused.setdefault(key, []).append((identity, rule))
            self._refuse(connection, saga, refused, now)
            connection.execute(self._forget, ([identity for identity, *_ in found],))
        return len(found)

    def retry(self, saga: str, now: datetime) -> int:
        """Try parked keys whose time has come; how many went on."""
        with self._connection.transaction() as connection:
            found = connection.execute(self._due_parked, (saga, now, BATCH_MAX)).fetchall()
            return sum(
                retry_parked_key(connection, self._reactors[saga], self._rows[saga], key)
                for (key,) in found
            )

    def waiting(self, saga: str) -> int:
        """How many instances wait for a person or another try, stuck or parked."""
        with self._connection.transaction() as connection:
            found = connection.execute(self._waiting, (saga, saga)).fetchone()
        assert found is not None, "a count is always there"
        return int(found[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    # --- parts ------------------------------------------------------------------------------

    def _refuse(
        self,
        connection: Connection[Any],
        saga: str,
        refused: Mapping[str, Sequence[tuple[str, str]]],
        now: datetime,
    ) -> None:
        reactor, rows = self._reactors[saga], self._rows[saga]
        loaded = rows.lock(connection, sorted(refused)).rows()
        for key, commands in refused.items():
            instance = loaded[key].instance
            for identity, rule in commands:
                if instance is not None:
                    reacted = reactor.refused(instance, identity, rule, now)
                    rows.write(connection, _changes(key, reacted))
                    instance = reacted.instance

    def _has_outcomes(self, connection: Connection[Any]) -> bool:
        """Whether a command has come through a topic yet: their outcomes' table is made then."""
        table = self._operations.as_string(connection)
        return connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchone() == (
            True,
        )

    def _each_due(
        self,
        saga: str,
        now: datetime,
        rows: SagaRows,
        react: Callable[[Instance[Any]], Reacted],
    ) -> int:
        with self._connection.transaction() as connection:
            found = connection.execute(self._due, (saga, now, BATCH_MAX)).fetchall()
            rows.forget()
            for key, document in found:
                rows.write(connection, _changes(key, react(rows.instance(document))))
        return len(found)


def _changes(key: str, reacted: Reacted) -> SagaChanges:
    assert reacted.instance is not None, "an instance that has begun stays"
    requests = [(key, request) for request in reacted.requests]
    return SagaChanges({key: reacted.instance}, requests, [], [], [])


def retry_parked_key(
    connection: Connection[Any], reactor: Reactor, rows: SagaRows, key: str
) -> bool:
    """Hear what is held for a parked key; whether it is parked no more."""
    changes = retry_parked(reactor, key, rows.lock(connection, [key]).rows()[key])
    rows.write(connection, changes)
    if not changes.parked:
        connection.execute(rows.statements.unpark, (rows.name, [key]))
    return not changes.parked
