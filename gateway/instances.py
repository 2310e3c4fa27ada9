"""The instances of one service, in turn: those first that say they are ready.

An instance that is about to stop says so on /readyz a while before it does, so it is sent nothing
any more when it goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import httpx2

PROBE_INTERVAL_S: Final = 0.25
PROBE_TIMEOUT_S: Final = 2.0


class Instances:
    """Where a service is found. One alone is taken as it is; several are watched."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = [httpx2.URL(url) for url in urls]
        self._ready = set(self._urls)
        self._turn = 0

    def __len__(self) -> int:
        return len(self._urls)

    def next(self) -> httpx2.URL:
        """The next that is ready; where none is, the next: its answer says more than ours."""
        found = [url for url in self._urls if url in self._ready] or self._urls
        self._turn += 1
        return found[self._turn % len(found)]

    def gone(self, url: httpx2.URL) -> None:
        """Nobody listens there: it is left out until it says that it is ready."""
        if len(self._urls) > 1:
            self._ready.discard(url)

    async def watch(self, client: httpx2.AsyncClient) -> None:
        """Ask each how it is, again and again; returns at once where there is no choice."""
        if len(self._urls) > 1:
            await asyncio.gather(*(self._watch(client, url) for url in self._urls))

    async def _watch(self, client: httpx2.AsyncClient, url: httpx2.URL) -> None:
        while True:
            try:
                answer = await client.get(url.join("/readyz"), timeout=PROBE_TIMEOUT_S)
                ready = answer.status_code == httpx2.codes.OK
            except httpx2.HTTPError:
                ready = False
            (self._ready.add if ready else self._ready.discard)(url)
            await asyncio.sleep(PROBE_INTERVAL_S)
