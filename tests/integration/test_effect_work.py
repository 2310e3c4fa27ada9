"""Work under a lease, on a real PostgreSQL: taken once, taken over, tried again, parked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import psycopg
import pytest

from schemas import CONTEXTS
from schemas.payments import PaymentVoided, RecordPaymentVoided
from tests.fixtures.servers import Database
from tidelog.effects.definition import Attempt, Bulkhead, NoAnswer, NotNow, RetryPolicy, WorkRefused
from tidelog.effects.definition import effect as define
from tidelog.effects.runner import again_and_again
from tidelog.effects.work_store import WorkStore
from tidelog.effects.work_tables import WorkStatements
from tidelog.effects.worker import Worker
from tidelog.errors import Unavailable
from tidelog.message import Command

EFFECT = "perform"
VOIDED = PaymentVoided(order_id="o")
OUTCOME = RecordPaymentVoided(order_id="o")
WAIT_S = 30.0

Perform = Callable[[PaymentVoided, Attempt], Awaitable[Command | None]]


class Table:
    """The rows of work, and what came of them, as anybody may see them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.statements = WorkStatements(database.schema)
        with self._connect() as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {database.schema}".encode())
            for statement in self.statements.create:
                connection.execute(statement)

    def add(self, id: str) -> None:
        """An event asks for work."""
        values = (id, EFFECT, "o", msgspec.json.encode(VOIDED).decode(), "m", "c", "")
        with self._connect() as connection:
            connection.execute(self.statements.add, [[value] for value in values])

    def rows(self) -> list[tuple[Any, ...]]:
        """Status, attempts, memo and error of each."""
        return self._query("SELECT status, attempts, memo, error FROM {}.effect_work ORDER BY id")

    def outbox(self) -> list[str]:
        """The commands that are to be sent, by their ids."""
        return [row[0] for row in self._query("SELECT command_id FROM {}.saga_outbox ORDER BY id")]

    def ended(self) -> list[str]:
        """The ids of what is done, as far as it is kept."""
        return [row[0] for row in self._query("SELECT id FROM {}.effect_ended ORDER BY id")]

    def age(self, id: str, days: float) -> None:
        """The work has ended so long ago."""
        with self._connect() as connection:
            connection.execute(
                f"UPDATE {self.database.schema}.effect_ended "
                "SET ended_at = now() - make_interval(secs => %s) WHERE id = %s".encode(),
                (days * 86_400, id),
            )

    def pause_s(self) -> float | None:
        """In how many seconds the work may be taken; None: not without a person."""
        found = self._query(
            "SELECT extract(epoch FROM next_attempt_at - now())::float8 FROM {}.effect_work"
        )
        pause: float | None = found[0][0]
        return pause

    def make_read_only(self) -> None:
        """Every write fails as it does in a database that was made read-only."""
        body = "BEGIN RAISE EXCEPTION 'read-only' USING ERRCODE = '25006'; END"
        schema = self.database.schema
        with self._connect() as connection:
            connection.execute(
                f"CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql "
                f"AS $${body}$$".encode()
            )
            connection.execute(
                f"CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON {schema}.effect_work "
                f"EXECUTE FUNCTION {schema}.refuse()".encode()
            )

    def make_writable(self) -> None:
        """All is well again."""
        with self._connect() as connection:
            connection.execute(f"DROP FUNCTION {self.database.schema}.refuse CASCADE".encode())

    def _query(self, text: str) -> list[tuple[Any, ...]]:
        with self._connect() as connection:
            return connection.execute(text.format(self.database.schema).encode()).fetchall()

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.database.dsn, autocommit=True)


@pytest.fixture
def table(database: Database) -> Table:
    return Table(database)


@pytest.fixture
async def store(table: Table) -> AsyncIterator[WorkStore]:
    opened = WorkStore(CONTEXTS, dsn=table.database.dsn, schema=table.database.schema)
    await opened.open()
    yield opened
    await opened.close()


async def work_until(
    store: WorkStore, perform: Perform, done: Callable[[], bool], retries: RetryPolicy | None = None
) -> None:
    """Let a worker work until this is so."""
    policy = retries or RetryPolicy(pause_s=0.01)
    bulkhead = Bulkhead(name="test", effects=(define(PaymentVoided, perform, retries=policy),))
    task = asyncio.create_task(Worker(store, bulkhead, attempt_s=5, lease_s=10).run())
    try:
        async with asyncio.timeout(WAIT_S):
            while not await asyncio.to_thread(done):
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_work_is_asked_for_once_by_its_event(table: Table) -> None:
    table.add("a")
    table.add("a")

    assert len(table.rows()) == 1


async def test_work_ends_with_its_command(table: Table, store: WorkStore) -> None:
    table.add("a")

    async def perform(event: PaymentVoided, _: Attempt) -> Command:
        return RecordPaymentVoided(order_id=event.order_id)

    await work_until(store, perform, lambda: not table.rows())
    assert len(table.outbox()) == 1


async def test_what_is_done_is_kept_for_some_days_and_no_longer(
    table: Table, store: WorkStore
) -> None:
    for name in ("long ago", "longer ago", "before that", "the day before"):
        table.add(name)
        (work,) = await store.claim([EFFECT], 1, 60)
        assert await store.finish(work, None)
    table.age("long ago", 90.1)
    table.age("longer ago", 91)
    table.age("before that", 92)
    table.age("the day before", 89.9)

    assert await store.forget_ended(90, 2) == 2  # the oldest first
    assert table.ended() == ["long ago", "the day before"]
    assert await store.forget_ended(90, 2) == 1
    assert await store.forget_ended(90, 2) == 0
    assert table.ended() == ["the day before"]


async def test_a_database_that_is_read_only_for_a_while_ends_no_worker(
    table: Table, store: WorkStore
) -> None:
    table.add("a")
    table.make_read_only()
    with pytest.raises(Unavailable):
        await store.claim([EFFECT], 1, 60)
    table.make_writable()
    (work,) = await store.claim([EFFECT], 1, 0)
    table.make_read_only()
    with pytest.raises(Unavailable):
        await store.finish(work, OUTCOME)
    table.make_writable()

    async def perform(event: PaymentVoided, _: Attempt) -> Command:
        return RecordPaymentVoided(order_id=event.order_id)

    await work_until(store, perform, lambda: not table.rows())
    assert len(table.outbox()) == 1


async def test_workers_that_fail_for_a_reason_of_ours_begin_again_and_say_so() -> None:
    troubles: list[str] = []
    again = asyncio.Event()

    async def work() -> None:
        if len(troubles) < 2:
            raise ValueError("a fault of ours")
        again.set()
        await asyncio.Event().wait()

    async def idle() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(again_and_again([work, idle], troubles.append, pause_s=0.01))
    async with asyncio.timeout(WAIT_S):
        await again.wait()
    task.cancel()
    await asyncio.wait({task})
    assert troubles == ["", "ValueError: a fault of ours", ""]


async def test_nobody_takes_what_another_holds(table: Table, store: WorkStore) -> None:
    table.add("a")
    assert len(await store.claim([EFFECT], 10, 60)) == 1

    assert await store.claim([EFFECT], 10, 60) == []


async def test_a_lease_that_ended_lets_another_take_the_work_and_the_late_one_write_nothing(
    table: Table, store: WorkStore
) -> None:
    table.add("a")
    (late,) = await store.claim([EFFECT], 1, 0)
    (second,) = await store.claim([EFFECT], 1, 60)
    assert second.attempts == 2

    assert not await store.finish(late, OUTCOME)
    await store.park(late, "late", None)

    assert [row[0] for row in table.rows()] == ["waiting"]
    assert table.outbox() == []
    assert await store.finish(second, OUTCOME)
    assert len(table.outbox()) == 1


async def test_what_has_no_answer_is_tried_again(table: Table, store: WorkStore) -> None:
    table.add("a")
    numbers = []

    async def perform(_: PaymentVoided, attempt: Attempt) -> Command | None:
        numbers.append(attempt.number)
        if attempt.number < 3:
            raise NoAnswer("nothing")
        return None

    await work_until(store, perform, lambda: not table.rows())
    assert numbers == [1, 2, 3]


async def test_tries_that_are_used_up_park_the_work_until_a_person_retries_it(
    table: Table, store: WorkStore
) -> None:
    table.add("a")

    async def perform(_: PaymentVoided, attempt: Attempt) -> Command | None:
        raise NoAnswer("nothing")

    policy = RetryPolicy(attempts_max=2, pause_s=0.01)
    parked = [("parked", 2, "", "nothing")]
    await work_until(store, perform, lambda: table.rows() == parked, policy)
    assert table.pause_s() is None

    assert await store.retry_parked("a") == 1
    assert [row[:2] for row in table.rows()] == [("waiting", 0)]


async def test_work_that_insists_goes_on_and_knows_that_it_is_giving_up(
    table: Table, store: WorkStore
) -> None:
    table.add("a")
    seen = []

    async def perform(_: PaymentVoided, attempt: Attempt) -> Command | None:
        seen.append(attempt.giving_up)
        if len(seen) < 4:
            raise NoAnswer("nothing")
        return OUTCOME

    policy = RetryPolicy(attempts_max=2, pause_s=0.01, insists=True)
    await work_until(store, perform, lambda: not table.rows(), policy)
    assert seen == [False, False, True, True]


async def test_what_was_never_tried_does_not_count(table: Table, store: WorkStore) -> None:
    table.add("a")

    async def perform(_: PaymentVoided, attempt: Attempt) -> Command | None:
        raise NotNow("provider", 60)

    await work_until(store, perform, lambda: "left alone" in table.rows()[0][3])
    assert table.rows()[0][:2] == ("waiting", 0)
    assert (table.pause_s() or 0) > 30


@pytest.mark.parametrize("error", [WorkRefused("never"), NoAnswer("never")])
async def test_what_the_other_side_will_never_do_is_parked_at_once(
    table: Table, store: WorkStore, error: Exception
) -> None:
    table.add("a")

    async def perform(_: PaymentVoided, attempt: Attempt) -> Command | None:
        raise error

    policy = RetryPolicy(attempts_max=1 if isinstance(error, NoAnswer) else 8)
    await work_until(store, perform, lambda: table.rows() == [("parked", 1, "", "never")], policy)


async def test_a_fault_of_ours_is_tried_again_and_harms_no_other_work(
    table: Table, store: WorkStore
) -> None:
    table.add("a")
    table.add("b")
    calls = []

    async def perform(_: PaymentVoided, attempt: Attempt) -> Command | None:
        calls.append(attempt.number)
        if len(calls) == 1:
            raise ZeroDivisionError
        return None

    await work_until(store, perform, lambda: not table.rows())
    assert sorted(calls) == [1, 1, 2]


async def test_a_memo_is_there_for_the_next_attempt(table: Table, store: WorkStore) -> None:
    table.add("a")
    memos = []

    async def perform(_: PaymentVoided, attempt: Attempt) -> Command | None:
        memos.append(attempt.memo)
        if not attempt.memo:
            await attempt.remember("north")
            raise NoAnswer("nothing")
        return None

    await work_until(store, perform, lambda: not table.rows())
    assert memos == ["", "north"]


async def test_a_worker_that_is_stopped_gives_its_work_back_at_once(
    table: Table, store: WorkStore
) -> None:
    table.add("a")
    begun = asyncio.Event()

    async def perform(_: PaymentVoided, attempt: Attempt) -> Command | None:
        begun.set()
        await asyncio.sleep(WAIT_S)
        return None

    await work_until(store, perform, begun.is_set)

    assert table.rows()[0][:2] in (("waiting", 0), ("waiting", 1))
    assert len(await store.claim([EFFECT], 1, 60)) == 1
