"""What happens to the read side in a run: kills, locks, a read-only database, cuts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg
from psycopg import AsyncConnection

from tests.torture.read_side_positions import Positions

HELD_S = 6.0
SETTLED_S = 2.0
CUTS = 5
PAUSE_S = 0.1
LOCKED = "order_detail"
KILLED = ("projectors", "postgres", "kafka")

_TABLE = "SELECT version, generation FROM projections WHERE name = %s AND serving"
_CUT = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE application_name LIKE 'tidelog-%' AND pid <> pg_backend_pid()"
)


@dataclass
class Faults:
    """Does them to the system that `dev_file` describes; what should not be is noted."""

    dev_file: Path
    positions: Positions
    queries: httpx.AsyncClient
    faults: list[str] = field(default_factory=list)

    def dev(self) -> dict[str, Any]:
        """The system's description, read anew: processes change their ids."""
        found: dict[str, Any] = json.loads(self.dev_file.read_text())
        return found

    def others(self) -> list[Callable[[], Awaitable[None]]]:
        """Everything that is no kill."""
        return [self.lock_a_table, self.make_read_only, self.cut_connections]

    async def kill(self, name: str) -> None:
        """SIGKILL to the process and all that it has started, as a crash of the machine would."""
        while True:
            pids = [p["pid"] for p in self.dev()["processes"] if p["name"] == name and p["pid"]]
            try:
                os.killpg(pids[0], signal.SIGKILL)
            except (ProcessLookupError, IndexError):
                await asyncio.sleep(PAUSE_S)
            else:
                return

    async def lock_a_table(self) -> None:
        """Writers of one read model wait for a lock: it falls behind, and no other does."""
        async with await self._connect() as connection:
            found = await (await connection.execute(_TABLE, (LOCKED,))).fetchone()
            assert found is not None, f"{LOCKED} is served"
            table = f"{LOCKED}__v{found[0]}_g{found[1]}"
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())
                await asyncio.sleep(SETTLED_S)
                before = self._by_projection()
                await asyncio.sleep(HELD_S)
                after = self._by_projection()
                lags = await self._lags()
        if after[LOCKED] != before[LOCKED]:
            self.faults.append(f"{LOCKED} moved from {before[LOCKED]} while its table was locked")
        if lags is not None and not lags[LOCKED]:
            self.faults.append(f"{LOCKED} was locked for {HELD_S} s and shows no lag")
        for name in ("stock_level", "order_summary"):
            if after[name] <= before[name]:
                self.faults.append(f"{name} stood still while the table of {LOCKED} was locked")

    async def make_read_only(self) -> None:
        """Nothing can be written for a while; then all goes on by itself."""
        await self._set_read_only("on")
        await asyncio.sleep(SETTLED_S)
        before = self._by_projection()
        await asyncio.sleep(HELD_S)
        after = self._by_projection()
        await self._set_read_only("off")
        if after != before:
            self.faults.append(f"positions moved in a read-only database: {before}, {after}")

    async def cut_connections(self) -> None:
        """Every connection of ours is cut, again and again."""
        for _ in range(CUTS):
            async with await self._connect() as connection:
                await connection.execute(_CUT)
            await asyncio.sleep(PAUSE_S * 3)

    async def _set_read_only(self, value: str) -> None:
        async with await self._connect() as connection:
            await connection.execute(
                f"ALTER DATABASE postgres SET default_transaction_read_only = {value}".encode()
            )
            await connection.execute(_CUT)

    async def _connect(self) -> AsyncConnection[Any]:
        """A connection that may write whatever the database's default is."""
        while True:
            try:
                return await AsyncConnection.connect(
                    self.dev()["postgres"]["dsn"],
                    autocommit=True,
                    connect_timeout=5,
                    application_name="torture",
                    options="-c default_transaction_read_only=off",
                )
            except psycopg.OperationalError:
                await asyncio.sleep(PAUSE_S)

    async def _lags(self) -> dict[str, int] | None:
        """The lag of each read model that serves; None where the queries do not answer."""
        try:
            answer = await self.queries.get("/projections", timeout=15)
        except httpx.HTTPError:
            return None
        if answer.status_code != 200:
            return None
        return {item["name"]: item["lag"] for item in answer.json()["items"] if item["serving"]}

    def _by_projection(self) -> dict[str, int]:
        sums: dict[str, int] = {}
        for place, sequence in self.positions.now.items():
            sums[place[0]] = sums.get(place[0], 0) + sequence
        return sums
