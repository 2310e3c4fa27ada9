"""Look-ups by key that share statements where many requests come at once.

While a statement is under way, the keys that come in gather for the next one: the cost of a round
trip is paid once for all of them. Nobody ever waits for company: where nothing is under way a
request sends its own statement at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

KEYS_MAX = 100
"""How many keys one statement looks up."""

STATEMENTS_MAX = 2
"""How many statements are under way: one is answered by PostgreSQL while another is read here."""

Row = Sequence[Any]
Find = Callable[[list[str]], Awaitable[list[Row]]]


class Lookup:
    """Rows of one read model by key. `find` gives the rows of some keys, each with its key first.

    It belongs to one event loop. A row is never older than the request for it: a key joins only a
    statement that is not sent yet.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self._gathered: dict[str, asyncio.Future[Row | None]] = {}
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def row(self, key: str) -> Row | None:
        """The row of the key, or None. What `find` raises comes out here."""
        if self._under_way >= STATEMENTS_MAX:
            future = self._gathered.get(key)
            if future is None:
                future = self._gathered[key] = asyncio.get_running_loop().create_future()
            # Shielded: where one of several callers goes away, the others still want the row.
            return await asyncio.shield(future)
        self._under_way += 1
        try:
            found = await self._find([key])
        finally:
            self._go_on()
        return found[0] if found else None

    def _go_on(self) -> None:
        """A statement has ended: send the next one for what has gathered."""
        if not self._gathered:
            self._under_way -= 1
            return
        keys = [*self._gathered][:KEYS_MAX]
        waiting = {key: self._gathered.pop(key) for key in keys}
        task = asyncio.get_running_loop().create_task(self._answer(waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, waiting: dict[str, asyncio.Future[Row | None]]) -> None:
        try:
            found = {row[0]: row for row in await self._find([*waiting])}
        except Exception as error:  # every caller gets it, as from a statement of its own
            for future in waiting.values():
                future.set_exception(error)
        else:
            for key, future in waiting.items():
                future.set_result(found.get(key))
        finally:
            self._go_on()
