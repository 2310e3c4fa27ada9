"""PostgreSQL is put back to an older backup under load: the read models heal from the log.

Nothing is done but to start the database again. What was lost is in the log; positions and rows
went back together; tokens from before wait until they are reached again.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
from psycopg.conninfo import conninfo_to_dict

from tests.torture.read_side import caught_up, check_read_models, check_whole_log
from tests.torture.read_side_load import Load
from tests.torture.read_side_positions import Positions
from tests.torture.read_side_readers import Readers, Seen
from tests.torture.system import folder_for_servers, system
from tidelog.embedded import postgres
from tidelog.embedded.process import Running

CLIENTS = 8
CLUSTER = "cluster"  # the folder of the database within the server's data directory
BACKUP_TIMEOUT_S = 120


@dataclass
class Result:
    """What a run has seen."""

    events_before: int = 0
    events: int = 0
    moved_back: int = 0
    events_back: int = 0
    seen: Seen = field(default_factory=Seen)
    verified: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def play(seed: int, rate: float, seconds: float) -> Result:
    """Load, a backup, as much load again; then the backup is put back while load goes on."""
    with folder_for_servers() as folder:
        database = Database(folder / "postgres")
        try:
            external = {"TIDELOG_POSTGRES_DSN": database.dsn}
            with system(None, external) as dev_file:
                return asyncio.run(Run(dev_file, database, seed, rate, seconds).play())
        finally:
            database.stop()


class Database:
    """A PostgreSQL of the run's own, that can be backed up and put back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: Running[postgres.PostgresServer] = postgres.start(folder)

    @property
    def dsn(self) -> str:
        """Where it is; the same after a restore."""
        return self._running.server.dsn

    def back_up(self) -> None:
        """Copy it while it runs, as pg_basebackup does."""
        parts = conninfo_to_dict(self.dsn)
        backup = self._folder / "backup"
        subprocess.run(
            [
                *(str(postgres.binary("pg_basebackup")), "-D", str(backup), "--checkpoint=fast"),
                *("-h", str(parts["host"]), "-p", str(parts["port"]), "-U", str(parts["user"])),
            ],
            env={**os.environ, "PGPASSWORD": str(parts["password"])},
            check=True,
            timeout=BACKUP_TIMEOUT_S,
        )

    def restore(self) -> None:
        """Stop it, put the backup in its place, start it."""
        self.stop()
        cluster = self._folder / CLUSTER
        owner = cluster.stat()
        shutil.rmtree(cluster)
        (self._folder / "backup").rename(cluster)
        if owner.st_uid != os.geteuid():
            user = pwd.getpwuid(owner.st_uid).pw_name
            for path in (cluster, *cluster.rglob("*")):
                shutil.chown(path, user, owner.st_gid)
        self._running = postgres.start(self._folder)

    def stop(self) -> None:
        """Stop it."""
        self._running.stop()


@dataclass
class Run:
    """One run."""

    dev_file: Path
    database: Database
    seed: int
    rate: float
    seconds: float
    result: Result = field(default_factory=Result)

    async def play(self) -> Result:
        """The whole run; what should not be is in `faults`."""
        dev: dict[str, Any] = json.loads(self.dev_file.read_text())
        commands = httpx.AsyncClient(base_url=dev["gateway"]["url"], trust_env=False)
        queries = httpx.AsyncClient(base_url=dev["query"]["url"], trust_env=False)
        positions = Positions(dev["postgres"]["dsn"])
        async with commands, queries:
            load = Load(self.seed, CLIENTS, self.rate, commands)
            readers = Readers(self.seed, load, queries)
            positions.start()
            await under_load(load, readers, lambda: self._back_up_and_restore(load))
            self.result.faults += await caught_up(queries)
        await asyncio.to_thread(positions.stop)
        self._take_in(readers, positions)
        self.result.events, faults = await asyncio.to_thread(check_whole_log, dev, load.answers)
        self.result.verified, different = await asyncio.to_thread(check_read_models, self.dev_file)
        self.result.faults += [*faults, *different]
        return self.result

    async def _back_up_and_restore(self, load: Load) -> None:
        """In the main thread, to which the database's process is tied."""
        await asyncio.sleep(self.seconds)
        await asyncio.to_thread(self.database.back_up)
        self.result.events_before = sum(len(answer["events"]) for answer in load.answers)
        await asyncio.sleep(self.seconds)
        # Blocking: the process of the database must be started by the main thread.
        self.database.restore()
        await asyncio.sleep(self.seconds)

    def _take_in(self, readers: Readers, positions: Positions) -> None:
        moved = positions.moved_back
        self.result.seen = readers.seen
        self.result.moved_back = len(moved)
        self.result.events_back = sum(each.before - each.after for each in moved)
        self.result.faults += readers.seen.faults
        if not moved:
            self.result.faults.append("no position went back: the restore was none")


async def under_load(load: Load, readers: Readers, what: Callable[[], Awaitable[None]]) -> None:
    """Do something while clients write and read."""
    tasks = [asyncio.create_task(load.run()), asyncio.create_task(readers.run())]
    try:
        await what()
    finally:
        load.stopping = True
        await tasks[0]
        readers.stopping = True
        await tasks[1]


def describe(result: Result) -> str:
    """The figures of a run."""
    seen = result.seen
    return f"""\
{result.events_before} events before the backup, {result.events} in the end
{result.moved_back} positions went back, by {result.events_back} events in all
reads: {seen.answers} answered, {seen.token_reads} of them with the token of a write, {seen.busy} \
not answered yet; readers without a token saw positions go back {seen.went_back} times
verified equal: {", ".join(result.verified)}
{len(result.faults)} faults"""
