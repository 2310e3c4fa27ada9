"""How far the serving read models are, told by PostgreSQL; and waiting until they are further.

One connection per process listens; requests wait on what it hears. A bounded number may wait.
Every commit that changes rows is told, with the partitions that they were folded from, also where
those stand where they stood: a retry that ends changes rows without new events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import psycopg
from psycopg import AsyncConnection, sql

from tidelog.engine.reading import Partition
from tidelog.errors import NotYetVisible, Overloaded
from tidelog.logging import get_logger
from tidelog.position import Position, format_token
from tidelog.postgres.notices import (
    CHANNEL,
    PARKED_CHANNEL,
    Notice,
    read_notice,
    read_parked_notice,
)
from tidelog.postgres.tables import Generation
from tidelog.postgres.trouble import reason

CONNECT_TIMEOUT_S = 5
PAUSE_S_MIN = 0.1
PAUSE_S_MAX = 5.0
# The positions are read again so often, so that a notice that was lost costs little.
REFRESH_S = 10.0
# A connection that says nothing may be broken: it is asked so often whether it is there.
PROOF_S = 1.0

Reached = Mapping[Partition, int]
log = get_logger(__name__)


class Hearer(Protocol):
    """Is told all that the listener learns about the generations that serve, as it learns it."""

    def moved(self, projection: str, reached: Reached) -> None:
        """Rows that are folded from these partitions may have changed; so far they are now."""
        ...

    def anew(self) -> None:
        """Everything was read anew. What has changed meanwhile cannot be told one by one."""
        ...

    def proved(self) -> None:
        """The connection answers: what was committed before it was asked has been told."""
        ...

    def lost(self) -> None:
        """The connection is broken: what happens is not told until everything is read anew."""
        ...


class PositionListener:
    """What is visible now, by projection. It belongs to one event loop."""

    def __init__(self, *, dsn: str, schema: str, waiters_max: int) -> None:
        self._dsn = dsn
        self._schema = schema
        self._waiters_max = waiters_max
        self._serving: dict[str, Generation] = {}
        self._reached: dict[Generation, dict[Partition, int]] = {}
        self._waiters: dict[asyncio.Future[None], tuple[str, Reached]] = {}
        self._followers: dict[str, Callable[[], None]] = {}
        self._parked: set[Generation] = set()
        self.hearer: Hearer | None = None
        self.trouble: str | None = "not connected yet"
        self.breaks = 0

    def reached(self, projection: str) -> Reached:
        """The sequence that each partition has reached at least; empty if nothing serves yet."""
        generation = self._serving.get(projection)
        return self._reached.get(generation, {}) if generation else {}

    def serving(self) -> Iterable[tuple[Generation, Reached]]:
        """Every generation that serves, and how far it is."""
        return [(each, self._reached[each]) for each in self._serving.values()]

    def parked(self, projection: str) -> Generation | None:
        """The generation that serves, if keys of it may be parked."""
        generation = self._serving.get(projection)
        return generation if generation in self._parked else None

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

    def follow(self, projection: str, moved: Callable[[], None]) -> None:
        """Call `moved` whenever the projection may have got further. One may follow each."""
        assert projection not in self._followers, f"{projection} is followed already"
        self._followers[projection] = moved

    async def run(self) -> None:
        """Listen until cancelled, connecting again where the connection breaks."""
        pause_s = PAUSE_S_MIN
        while True:
            try:
                async with await self._connect() as connection:
                    pause_s = PAUSE_S_MIN
                    await self._listen(connection)
            except psycopg.Error as error:
                self.trouble = f"PostgreSQL: {reason(error)}"
                # A database that comes back after a crash may stand before what was heard of it.
                self._serving, self._reached = {}, {}
                self.breaks += 1
                if self.hearer is not None:
                    self.hearer.lost()
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
        for channel in (CHANNEL, PARKED_CHANNEL):
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        told = False
        while True:
            before = {each: dict(reached) for each, reached in self.serving()}
            await self._load(connection)
            self.trouble = None
            self._tell_loaded(before, told=told)
            told = await self._hear_all(connection)

    async def _hear_all(self, connection: AsyncConnection[Any]) -> bool:
        """Hear for REFRESH_S; False as soon as a notice tells of a generation that is not known.

        Notices that came together with that one are lost.
        """
        until = time.monotonic() + REFRESH_S
        while time.monotonic() < until:
            notices = connection.notifies(timeout=PROOF_S)
            async for notify in notices:
                if notify.channel == PARKED_CHANNEL:
                    self._hear_parked(notify.payload)
                elif not self._hear(notify.payload):
                    await notices.aclose()
                    return False
            await connection.execute("SELECT 1")
            if self.hearer is not None:
                self.hearer.proved()
        return True

    def _tell_loaded(self, before: Mapping[Generation, Reached], *, told: bool) -> None:
        """Tell what was loaded: what it adds to what was `told`, else all of it."""
        if self.hearer is None:
            return
        now = dict(self.serving())
        if not told or now.keys() != before.keys():
            self.hearer.anew()
            return
        for generation, reached in now.items():
            known = before[generation]
            moved = {at: sequence for at, sequence in reached.items() if known.get(at) != sequence}
            if moved:
                self.hearer.moved(generation.projection, moved)

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
        projection = notice.generation.projection
        if self.hearer is not None and self._serving.get(projection) == notice.generation:
            places = (Partition(each.context, each.partition) for each in notice.positions)
            self.hearer.moved(projection, {at: reached[at] for at in places})
        self._wake(projection)
        return True

    def _hear_parked(self, payload: str) -> None:
        """A key is parked. That none is any more is seen at the next load."""
        try:
            schema, generation = read_parked_notice(payload)
        except ValueError:  # anyone may notify; what is not ours is shown
            log.warning("listener.foreign_notice", reason="not of the form of a parked key")
            return
        if schema == self._schema:
            self._parked.add(generation)

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
        keys = sql.Identifier(self._schema, "parked_keys")
        parked = await connection.execute(
            sql.SQL("SELECT DISTINCT projection, version, generation FROM {}").format(keys)
        )
        self._parked = {Generation(*each) for each in await parked.fetchall()}
        for name in serving:
            self._wake(name)

    # --- waiting ----------------------------------------------------------------------------

    def _wake(self, projection: str) -> None:
        if projection in self._followers:
            self._followers[projection]()
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
