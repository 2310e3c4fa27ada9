"""Given look-ups that come at once, when they share statements, then each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from query_service.lookups import KEYS_MAX, STATEMENTS_MAX, Lookup, Row
from tidelog.errors import Unavailable


class Table:
    """A table whose statements end when the test says so."""

    def __init__(self) -> None:
        self.version = 1
        self.sent: list[list[str]] = []
        self.open: list[asyncio.Future[None]] = []
        self.lookup = Lookup(self.find)

    async def find(self, keys: list[str]) -> list[Row]:
        """The rows as they are when the statement is sent; no key that begins with `no` has one."""
        assert len(self.open) < STATEMENTS_MAX
        self.sent.append(keys)
        version, ended = self.version, asyncio.get_running_loop().create_future()
        self.open.append(ended)
        await ended
        return [(key, version) for key in reversed(keys) if not key.startswith("no")]

    async def asked(self, *keys: str) -> list[asyncio.Task[Row | None]]:
        """Callers that ask for these keys, as far as they come."""
        tasks = [asyncio.ensure_future(self.lookup.row(key)) for key in keys]
        await asyncio.sleep(0)
        return tasks

    async def end(self, error: Exception | None = None) -> None:
        """End the statement that was sent first, and let what follows happen."""
        ended = self.open.pop(0)
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)
        for _ in range(5):
            await asyncio.sleep(0)


def on_a_loop(
    test: Callable[[Table], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """The test on an event loop, with a table of its own."""

    def run() -> None:
        async def tested() -> None:
            await test(Table())

        asyncio.run(tested())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_a_loop
async def test_a_look_up_that_is_alone_is_sent_at_once(table: Table) -> None:
    (alone,) = await table.asked("a")

    assert table.sent == [["a"]]
    await table.end()
    assert alone.result() == ("a", 1)


@on_a_loop
async def test_look_ups_gather_while_statements_are_under_way(table: Table) -> None:
    callers = await table.asked("a", "b", "c", "no", "c")
    assert table.sent == [["a"], ["b"]]

    await table.end()
    assert table.sent == [["a"], ["b"], ["c", "no"]]
    await table.end()
    await table.end()

    assert [each.result() for each in callers] == [("a", 1), ("b", 1), ("c", 1), None, ("c", 1)]


@on_a_loop
async def test_a_row_is_never_older_than_the_request_for_it(table: Table) -> None:
    await table.asked("a", "b")
    table.version = 2
    (late,) = await table.asked("a")

    for _ in range(3):
        await table.end()

    assert late.result() == ("a", 2)


@on_a_loop
async def test_no_statement_looks_up_more_keys_than_its_bound(table: Table) -> None:
    keys = [f"k-{n}" for n in range(2 + 2 * KEYS_MAX + 1)]
    callers = await table.asked(*keys)

    while table.open:
        await table.end()

    assert [len(sent) for sent in table.sent] == [1, 1, KEYS_MAX, KEYS_MAX, 1]
    assert [each.result() for each in callers] == [(key, 1) for key in keys]


@on_a_loop
async def test_a_statement_that_fails_fails_for_its_own_callers_only(table: Table) -> None:
    callers = await table.asked("a", "b", "c", "d")

    await table.end(Unavailable("gone"))
    (later,) = await table.asked("e")
    await table.end()
    await table.end(Unavailable("gone"))
    await table.end()

    for caller in (callers[0], callers[2], callers[3]):
        with pytest.raises(Unavailable):
            caller.result()
    assert (callers[1].result(), later.result()) == (("b", 1), ("e", 1))


@on_a_loop
async def test_a_caller_who_goes_away_takes_nobody_along(table: Table) -> None:
    callers = await table.asked("a", "b", "c", "c")

    callers[0].cancel()
    callers[2].cancel()
    await asyncio.sleep(0)
    table.open.pop(0)
    while table.open:
        await table.end()

    assert callers[0].cancelled()
    assert (callers[1].result(), callers[3].result()) == (("b", 1), ("c", 1))
    (again,) = await table.asked("a")
    await table.end()
    assert again.result() == ("a", 1)
