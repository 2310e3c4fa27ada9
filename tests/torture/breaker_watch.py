"""When a breaker opened and closed, as its process tells it in its metrics."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import httpx2 as httpx

CLOSED: Final = 0.0
OPEN: Final = 2.0
LOOK_S: Final = 0.05


class Figures(NamedTuple):
    """Seconds from the fall until it opened, and from the return until it closed; None: never."""

    name: str
    opened_s: float | None
    closed_s: float | None


@dataclass
class BreakerWatch:
    """Watches one breaker of the process at `url`."""

    url: str
    dependency: str
    states: list[tuple[float, float]] = field(default_factory=list)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
            while True:
                await self._look(http)
                await asyncio.sleep(LOOK_S)

    async def is_open(self) -> bool:
        """Whether it was seen open."""
        return any(state == OPEN for _, state in self.states)

    async def is_closed(self) -> bool:
        """Whether it was closed at the last look."""
        return bool(self.states) and self.states[-1][1] == CLOSED

    def figures(self, fallen_at: float, back_at: float) -> Figures:
        """What was seen, by the moments (monotonic) of the fall and of the return."""
        return Figures(self.dependency, self._first(OPEN, fallen_at), self._first(CLOSED, back_at))

    def _first(self, state: float, since: float) -> float | None:
        times = [at for at, seen in self.states if at >= since and seen == state]
        return times[0] - since if times else None

    async def _look(self, http: httpx.AsyncClient) -> None:
        """One look; none where the process does not answer."""
        start = f'tidelog_breaker_state{{dependency="{self.dependency}"}} '
        try:
            page = (await http.get(f"{self.url}/metrics")).text
        except httpx.HTTPError:
            return
        values = [line.removeprefix(start) for line in page.splitlines() if line.startswith(start)]
        self.states += [(time.monotonic(), float(value)) for value in values]
