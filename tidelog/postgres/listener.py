"""How far the serving read models are, told by PostgreSQL; and waiting until they are further.

One connection per process listens; requests wait on what it hears. A bounded number may wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from tidelog.engine.folding import Partition
from tidelog.errors import NotYetVisible, Overloaded
from tidelog.logging import get_logger
from tidelog.position import Position, format_token
from tidelog.postgres.notices import CHANNEL, Notice, read_notice
from tidelog.postgres.tables import Generation

CONNECT_TIMEOUT_S = 5
PAUSE_S_MIN = 0.1
PAUSE_S_MAX = 5.0
# The positions are read again so often, so that a notice that was lost costs little.
REFRESH_S = 10.0

Reached = Mapping[Partition, int]
log = get_logger(__name__)


class PositionListener:
    """What is visible now, by projection. It belongs to one event loop."""

    def __init__(self, *, dsn: str, schema: str, waiters_max: int) -> None:
        self._dsn = dsn
        self._schema = schema
        self._waiters_max = waiters_max
        self._serving: dict[str, Generation] = {}
        self._reached: dict[Generation, dict[Partition, int]] = {}
        self._waiters: dict[asyncio.Future[None], tuple[str, Reached]] = {}
        self.trouble: str | None = "not connected yet"

    def reached(self, projection: str) -> Reached:
        """The sequence that each partition has reached at least; empty if nothing serves yet."""
        generation = self._serving.get(projection)
        return self._reached.get(generation, {}) if generation else {}

    async def wait(self, projection: str, wanted: Reached, timeout_s: float) -> None:
        """Return once the projection has reached these positions.

        Partitions that it does not read are ignored. Raises NotYetVisible where it has not got
        there in time, and Overloaded where too many wait already.
        """
        if self._visible(projection, wanted):
            return
        if len(self._waiters) >= self._waiters_max:
            raise Overloaded(f"{self._waiters_max} requests wait for a read model already.")
        future = asyncio.get_running_loop().create_future()
        self._waiters[future] = (projection, wanted)
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise self._not_yet(projection, wanted) from None
        finally:
            del self._waiters[future]

    async def run(self) -> None:
        """Listen until cancelled, connecting again where the connection breaks."""
        pause_s = PAUSE_S_MIN
        while True:
            try:
                async with await self._connect() as connection:
                    pause_s = PAUSE_S_MIN
                    await self._listen(connection)
            except psycopg.Error as error:
                self.trouble = f"PostgreSQL: {str(error).partition(chr(10))[0]}"
                log.warning("listener.waits", reason=self.trouble, pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)

    # --- listening --------------------------------------------------------------------------

    async def _connect(self) -> AsyncConnection[Any]:
        return await AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="tidelog-listener",
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
        )

    async def _listen(self, connection: AsyncConnection[Any]) -> None:
        # First listen, then read: what commits in between is told.
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        while True:
            await self._load(connection)
            self.trouble = None
            notices = connection.notifies(timeout=REFRESH_S)
            async for notify in notices:
                if not self._hear(notify.payload):
                    await notices.aclose()
                    break

    def _hear(self, payload: str) -> bool:
        """Take a notice in; False where it tells of a generation that is not known yet."""
        notice = _read(payload)
        if notice is None or notice.schema != self._schema:
            return True
        reached = self._reached.get(notice.generation)
        if reached is None:
            return False
        for position in notice.positions:
            reached[Partition(position.context, position.partition)] = position.sequence
        self._wake(notice.generation.projection)
        return True

    async def _load(self, connection: AsyncConnection[Any]) -> None:
        """Read all positions; where PostgreSQL was restored they may be lower than before."""
        known = await connection.execute(
            "SELECT to_regclass(%s) IS NOT NULL",
            (f'"{self._schema}".projection_positions',),
        )
        if await known.fetchone() != (True,):
            return
        positions = sql.Identifier(self._schema, "projection_positions")
        projections = sql.Identifier(self._schema, "projections")
        # One statement, one snapshot: a switch of generations is seen whole.
        found = await connection.execute(
            sql.SQL(
                "SELECT p.name, p.version, p.generation, p.serving, o.context, o.partition, "
                "o.sequence FROM {} AS p JOIN {} AS o ON o.projection = p.name "
                "AND o.version = p.version AND o.generation = p.generation"
            ).format(projections, positions)
        )
        serving: dict[str, Generation] = {}
        reached: dict[Generation, dict[Partition, int]] = {}
        for (
            name,
            version,
            number,
            serves,
            context,
            partition,
            sequence,
        ) in await found.fetchall():
            generation = Generation(name, version, number)
            reached.setdefault(generation, {})[Partition(context, partition)] = sequence
            if serves:
                serving[name] = generation
        self._serving, self._reached = serving, reached
        for name in serving:
            self._wake(name)

    # --- waiting ----------------------------------------------------------------------------

    def _wake(self, projection: str) -> None:
        for future, (name, wanted) in self._waiters.items():
            if name == projection and not future.done() and self._visible(name, wanted):
                future.set_result(None)

    def _visible(self, projection: str, wanted: Reached) -> bool:
        reached = self.reached(projection)
        if not reached:
            return False
        return all(reached.get(at, sequence) >= sequence for at, sequence in wanted.items())

    def _not_yet(self, projection: str, wanted: Reached) -> NotYetVisible:
        reached = self.reached(projection)
        current = format_token(Position(*at, reached[at]) for at in wanted if at in reached)
        return NotYetVisible(
            "The read model has not reached the given position yet. Ask again.", current
        )


def as_token(reached: Reached) -> str:
    """The positions as a consistency token."""
    return format_token(Position(*at, sequence) for at, sequence in reached.items())


def _read(payload: str) -> Notice | None:
    try:
        return read_notice(payload)
    except Exception as error:  # anyone may notify; what is not ours is shown
        log.warning("listener.foreign_notice", reason=type(error).__name__)
        return None
