"""The system as `tidelog parked` reaches it.

What is parked is read from PostgreSQL, its events from the log; decisions go through the command
service and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import httpx2
import psycopg
from psycopg import Connection, sql
from psycopg.rows import dict_row

from tidelog.cli.decoding import ValueDecoder
from tidelog.cli.output import NOT_RUNNING
from tidelog.cli.system import System, find_system
from tidelog.cli.token import authorization
from tidelog.definitions import load_projections, projection_named
from tidelog.engine.heeded import covers
from tidelog.engine.reading import Partition
from tidelog.errors import Invalid, TidelogError, Unavailable, Unknown
from tidelog.kafka.spans import SpanReader
from tidelog.parking import event_type, read_replacement
from tidelog.position import Position, parse_position
from tidelog.postgres import trouble
from tidelog.postgres.parked_list import known_tables, parked_select
from tidelog.postgres.tables import Generation
from tidelog.projection import Projection
from tidelog.settings import load_settings

TIMEOUT_S = 15.0


class DecisionRefused(TidelogError):
    """The command service refused the decision."""


class ParkedSystem:
    """What the commands need of a running system."""

    def __init__(self, dev: Path | None) -> None:
        self._dev = dev
        self.system: System = find_system(dev)
        settings = load_settings()
        self.schema = settings.postgres_schema
        self._door = self.system.gateway_url or settings.command_service_url
        self._projections = settings.projections
        try:
            self._connection: Connection[dict[str, Any]] = psycopg.connect(
                self.system.postgres_dsn,
                autocommit=True,
                connect_timeout=int(TIMEOUT_S),
                application_name="tidelog-cli",
                options="-c timezone=UTC -c statement_timeout=15000",
                row_factory=cast("Any", dict_row),
            )
        except psycopg.Error as error:
            raise Unavailable(
                f"PostgreSQL does not answer ({trouble.reason(error)}); {NOT_RUNNING}."
            ) from error

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    # --- what is parked -----------------------------------------------------------------------

    def items(self, kind: str | None, projection: str | None, limit: int) -> list[dict[str, Any]]:
        """What is parked, the oldest first."""
        tables = [each["name"] for each in self._rows(known_tables(self.schema), {})]
        return self._rows(
            f"SELECT * FROM ({parked_select(self.schema, tables)}) AS parked "
            "WHERE (%(kind)s::text IS NULL OR kind = %(kind)s) "
            "AND (%(projection)s::text IS NULL OR projection = %(projection)s) "
            "ORDER BY parked_at, id LIMIT %(limit)s",
            {"kind": kind, "projection": projection, "limit": limit},
        )

    def item(self, projection: str, key: str) -> dict[str, Any]:
        """The parked key, of the generation that serves if of several; Unknown if it is not."""
        found = self._find(projection, key)
        if not found:
            raise Unknown(
                f"{projection} has no parked key {key}; `tidelog parked list` shows what is parked"
            )
        return found[0]

    def still(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """The item as it stands now; None where the key is parked no more."""
        found = self._find(item["projection"], item["key"])
        same = [each for each in found if each["id"] == item["id"]]
        return same[0] if same else None

    def heeds(self, item: Mapping[str, Any], token: str) -> bool:
        """Whether the item's generation has heeded the decision that the token names."""
        place = parse_position(token)
        rows = self._rows(
            f'SELECT heeded FROM "{self.schema}".projection_positions '
            "WHERE projection = %(projection)s AND version = %(version)s "
            "AND generation = %(generation)s",
            item,
        )
        wanted = f"{place.partition}:{place.sequence}"
        return all(covers(each["heeded"], wanted) for each in rows)

    def ask_retry(self, item: Mapping[str, Any]) -> None:
        """Make the key due: the next projector that looks tries it."""
        self._rows(
            f'UPDATE "{self.schema}".parked_keys SET next_attempt_at = now() '
            "WHERE projection = %(projection)s AND version = %(version)s "
            "AND generation = %(generation)s AND key = %(key)s RETURNING 1 AS done",
            item,
        )

    def record(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The event in the log: its headers, and its data or why it has none."""
        position, offset = parse_position(item["position"]), item["offset"]
        reader = SpanReader(
            bootstrap_servers=self.system.kafka_bootstrap_servers,
            topic_prefix=self.system.topic_prefix,
            client_id="tidelog-cli",
        )
        decoder = ValueDecoder(self.system.registry_url)
        try:
            at = Partition(position.context, position.partition)
            for records in reader.read(at, offset, offset):
                for each in records:
                    headers = {name: _text(value) for name, value in each.headers}
                    return {"headers": headers, **decoder.described(each.value)}
        finally:
            decoder.close()
            reader.close()
        return {"undecodable": f"the log has no record at offset {offset} of {at}"}

    def row(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row as it stands: what it took in before the event that failed."""
        generation = Generation(item["projection"], item["version"], item["generation"])
        found = self._rows(
            sql.SQL("SELECT to_jsonb(t) AS row FROM {} AS t WHERE {} = %(key)s")
            .format(
                sql.Identifier(self.schema, generation.table),
                sql.Identifier(self.projection(item["projection"]).key),
            )
            .as_string(self._connection),
            item,
        )
        return found[0]["row"] if found else None

    # --- deciding -----------------------------------------------------------------------------

    def projection(self, name: str) -> Projection[Any, Any]:
        """The definition; only one that folds rows parks keys."""
        found = projection_named(load_projections(self._projections), name)
        if not isinstance(found, Projection):
            raise Unknown(f"{name} writes its own SQL: it parks no keys")
        return found

    def checked(self, item: Mapping[str, Any], replacement: str) -> None:
        """Raise Invalid where the replacement does not fit the event that is parked."""
        context = parse_position(item["position"]).context
        kind = event_type(self.projection(item["projection"]).contexts, context, item["event_type"])
        if kind is None:
            raise Invalid(f"{context} has no event {item['event_type']} here")
        event = read_replacement(replacement, kind)
        (key,) = [
            each.key
            for each in self.projection(item["projection"]).contexts
            if each.name == context
        ]
        if getattr(event, key) != item["aggregate_id"]:
            raise Invalid(
                f"the replacement is of another {key}: it must stay {item['aggregate_id']!r}"
            )

    def decide(
        self,
        item: Mapping[str, Any],
        decision: str,
        replacement: str | None,
        reason: str,
        operator: str,
    ) -> dict[str, Any]:
        """Send the decision through the command service; what it answered."""
        position: Position = parse_position(item["position"])
        body: dict[str, Any] = {
            "kind": "projection",
            "projection": item["projection"],
            "version": item["version"],
            "position": str(position),
            "decision": decision,
            "reason": reason,
            "operator": operator,
        }
        if replacement is not None:
            body |= {"event_type": item["event_type"], "replacement": replacement}
        try:
            answer = httpx2.post(
                f"{self._door}/operations/{item['target']}/decide-parked",
                json=body,
                headers=authorization(self._dev, operator, "operator"),
                timeout=TIMEOUT_S,
                trust_env=False,
            )
        except httpx2.TransportError as error:
            raise Unavailable(f"{self._door} does not answer ({error}); {NOT_RUNNING}.") from error
        content = answer.json() if answer.content else {}
        if answer.status_code >= 500:
            raise Unavailable(f"{self._door}: {content.get('detail', answer.status_code)}")
        if answer.status_code >= 400:
            raise DecisionRefused(
                f"{content.get('title', answer.status_code)}: {content.get('detail', '')}"
            )
        return dict(content)

    def _find(self, projection: str, key: str) -> list[dict[str, Any]]:
        return self._rows(
            f"SELECT * FROM ({parked_select(self.schema, ['parked_keys'])}) AS parked "
            "WHERE projection = %(projection)s AND key = %(key)s "
            "ORDER BY serving DESC, generation DESC",
            {"projection": projection, "key": key},
        )

    def _rows(self, statement: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            found = self._connection.execute(statement.encode(), values)
            return list(found.fetchall())
        except psycopg.errors.UndefinedTable:
            return []  # no projector has run yet: nothing is parked
        except psycopg.Error as error:
            raise Unavailable(f"PostgreSQL does not answer: {trouble.reason(error)}") from error


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")
