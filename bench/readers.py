"""Processes that read a whole log, started anew for each round: our projector, and peers."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from itertools import count

import psycopg

from bench.backends import backends_of
from bench.catch_up import Timing, caught_up
from bench.event_log import PARTITIONS, LogSpec, schema_of
from bench.peers.order_upsert import OrderTable
from bench.peers.schemas import save_schemas
from bench.progress import Progress
from bench.projecting import SUMMARY, Folded, drop_schema, projector
from bench.sample import Sample
from bench.stack import FOLDER, Stack
from tidelog.embedded.process import Launch

FAUST = (sys.executable, "-m", "bench.peers.faust_orders", "worker", "-l", "warn")
QUIX_MODULE = ("-m", "bench.peers.quix_orders")


class ProjectorSide:
    """The real projector process, with one projection, folding a log from its beginning."""

    def __init__(self, stack: Stack, log: LogSpec) -> None:
        self._log, self._stack = log, stack
        self._backends = backends_of(stack)
        self._schema = schema_of(log.prefix)
        self._server = projector(stack, log.prefix, self._schema, SUMMARY)

    def run(self, seconds: float) -> Sample:
        """Into fresh tables; timed by the positions that PostgreSQL shows."""
        drop_schema(self._stack, self._schema)
        folded = Folded(self._stack, self._schema, SUMMARY)
        sample = caught_up(
            self._server.name,
            self._server.launch(),
            folded.count,
            self._log.events,
            Timing(seconds, self._backends),
        )
        folded.check_none_parked()
        folded.close()
        return sample

    def close(self) -> None:
        """Remove the tables."""
        drop_schema(self._stack, self._schema)


@dataclass(frozen=True, kw_only=True)
class PeerProcess:
    """A program that reads the log of its environment variables and tells its progress."""

    name: str
    command: tuple[str, ...]
    writes: str
    makes_table: bool


class PeerSide:
    """A peer's process, folding a log from its beginning, into a fresh table."""

    def __init__(self, stack: Stack, log: LogSpec, peer: PeerProcess) -> None:
        self._log, self._stack, self._peer = log, stack, peer
        self._backends = backends_of(stack)
        self._name = f"{log.prefix}{peer.name}-{peer.writes}".replace(" ", "-").lower()
        self._schema = schema_of(self._name.replace(".", "_"))
        self._schemas = save_schemas(stack, log.prefix)
        self._numbers = count(1)

    def run(self, seconds: float) -> Sample:
        """A new group each time, so that it begins with the first event."""
        drop_schema(self._stack, self._schema)
        group = f"{self._name}-{next(self._numbers)}"
        folder = self._stack.folder / "peers" / group
        folder.mkdir(parents=True)
        progress = Progress(folder / "progress")
        if self._peer.makes_table:
            self._make_table()
        launch = Launch(
            command=self._peer.command,
            log=folder / "log",
            environment={**os.environ, **self._environment(group)},
            folder=FOLDER,
        )
        total, timing = self._log.events, Timing(seconds, self._backends)
        sample = caught_up(self._name, launch, progress.read, total, timing)
        shutil.rmtree(folder)
        return sample

    def close(self) -> None:
        """Remove the table."""
        drop_schema(self._stack, self._schema)

    def _make_table(self) -> None:
        with psycopg.connect(self._stack.postgres, autocommit=True) as connection:
            for statement in OrderTable(self._schema).create:
                connection.execute(statement.encode())

    def _environment(self, group: str) -> dict[str, str]:
        folder = self._stack.folder / "peers" / group
        return {
            "BENCH_KAFKA": self._stack.kafka,
            "BENCH_TOPIC": self._log.topic,
            "BENCH_PARTITIONS": str(PARTITIONS),
            "BENCH_GROUP": group,
            "BENCH_FOLDER": str(folder),
            "BENCH_PROGRESS": str(folder / "progress"),
            "BENCH_SCHEMAS": str(self._schemas),
            "BENCH_DSN": self._stack.postgres,
            "BENCH_SCHEMA": self._schema,
            "BENCH_WRITES": self._peer.writes,
        }
