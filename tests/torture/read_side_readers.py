"""Readers that hold every answer of the queries against what they were told before.

A read model may be behind; it may go back after a crash of its database, and then says so. What it
may never do is to show less than its own `X-As-Of` promises, or a row that no event has made.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx

from tests.torture.read_side_load import Acknowledged, Load

PAUSE_S = 0.01
TIMEOUT_S = 12.0
BUSY = frozenset({502, 503, 504})

Sequences = Mapping[tuple[str, str], int]


@dataclass
class Seen:
    """What the readers have seen."""

    answers: int = 0
    busy: int = 0
    # Asked for without a token, before the read model had it: the lag, and no failure.
    not_there_yet: int = 0
    token_reads: int = 0
    went_back: int = 0
    events_back_max: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Readers:
    """Readers of orders and of stock, until `stopping`."""

    seed: int
    load: Load
    http: httpx.AsyncClient
    seen: Seen = field(default_factory=Seen)
    stopping: bool = False

    async def run(self) -> None:
        """Read until told to stop."""
        await asyncio.gather(self._own_writes(0), self._own_writes(1), self._rows(), self._stock())

    # --- reads after writes -----------------------------------------------------------------

    async def _own_writes(self, number: int) -> None:
        """Read what was just acknowledged, with its token."""
        chance = random.Random(f"{self.seed}-own-{number}")
        while not self.stopping:
            await asyncio.sleep(PAUSE_S)
            if self.load.recent:
                await self.read_own_write(chance.choice(list(self.load.recent)[-20:]))

    async def read_own_write(self, told: Acknowledged) -> bool:
        """Whether the write is visible; 503 says not yet, and anything else is a fault."""
        path = f"/orders/{told.id}" if told.context == "orders" else f"/stock/{told.id}"
        answer = await self._get(path, told.token)
        if answer is None:
            return False
        self.seen.token_reads += 1
        version = answer.json()["version"]
        as_of = read_token(answer.headers["x-as-of"])
        if version < told.answer["version"]:
            self._fault(f"{path} shows version {version} under the token of {told.answer}")
        for at, sequence in read_token(told.token).items():
            if as_of.get(at, 0) < sequence:
                self._fault(f"{path} with token {told.token} is only as of {as_of}")
        return True

    # --- rows that may not contradict what was said before ----------------------------------

    async def _rows(self) -> None:
        """Read the same orders again and again, with the last X-As-Of and without."""
        chance = random.Random(f"{self.seed}-rows")
        known: dict[str, tuple[int, Sequences]] = {}
        while not self.stopping:
            await asyncio.sleep(PAUSE_S)
            orders = [told.id for told in list(self.load.recent) if told.context == "orders"]
            if not orders:
                continue
            order_id = chance.choice(orders)
            before = known.get(order_id)
            token = _as_token(before[1]) if before and chance.random() < 0.5 else None
            answer = await self._get(f"/orders/{order_id}", token)
            if answer is None:
                continue
            self._check_order(answer.json())
            now = (int(answer.json()["version"]), read_token(answer.headers["x-as-of"]))
            if before:
                self._compare(order_id, before, now, with_token=token is not None)
            known[order_id] = now

    def _compare(
        self,
        order_id: str,
        before: tuple[int, Sequences],
        now: tuple[int, Sequences],
        *,
        with_token: bool,
    ) -> None:
        """A later answer may be older only where it says so, and never under a token."""
        # Where nothing is said, as right after a break of the query service's connection, nothing
        # is promised either.
        back = {at for at, n in before[1].items() if now[1].get(at, 0) < n}
        if back:
            self.seen.went_back += 1
            lost = [before[1][at] - now[1][at] for at in back if at in now[1]]
            self.seen.events_back_max = max(self.seen.events_back_max, *lost, 0)
        if with_token and (back or now[0] < before[0]):
            self._fault(
                f"order {order_id}: {now} after {before}, whose X-As-Of was sent as the token"
            )
        elif now[0] < before[0] and not back:
            self._fault(
                f"order {order_id}: version {now[0]} after {before[0]}, and X-As-Of hides it"
            )

    def _check_order(self, order: Mapping[str, Any]) -> None:
        total = sum(line["quantity"] * line["unit_price"] for line in order["lines"])
        if total != order["total"] or not order["status"]:
            self._fault(f"a torn order: {order}")

    # --- stock ------------------------------------------------------------------------------

    async def _stock(self) -> None:
        """No row of stock is ever negative or torn."""
        while not self.stopping:
            await asyncio.sleep(PAUSE_S * 5)
            answer = await self._get("/stock?limit=200", None)
            for row in answer.json()["items"] if answer else ():
                if not 0 <= row["reserved"] <= row["on_hand"]:
                    self._fault(f"impossible stock: {row}")
                if row["available"] != row["on_hand"] - row["reserved"]:
                    self._fault(f"torn stock: {row}")

    # --- one read ---------------------------------------------------------------------------

    async def _get(self, path: str, token: str | None) -> httpx.Response | None:
        """The answer, or None while the system is away or behind."""
        headers = {"Consistency-Token": token} if token else {}
        try:
            answer = await self.http.get(path, headers=headers, timeout=TIMEOUT_S)
        except httpx.HTTPError:
            self.seen.busy += 1
            return None
        if answer.status_code in BUSY:
            self.seen.busy += 1
            return None
        if answer.status_code == 404 and token is None:
            self.seen.not_there_yet += 1
            return None
        if answer.status_code != 200:
            self._fault(f"{path} with token {token} is answered {answer.status_code} {answer.text}")
            return None
        self.seen.answers += 1
        return answer

    def _fault(self, text: str) -> None:
        self.seen.faults.append(text)


def read_token(token: str) -> dict[tuple[str, str], int]:
    """The sequence by context and partition."""
    parts = [position.split(":") for position in token.split(",") if position]
    return {(context, partition): int(sequence) for context, partition, sequence in parts}


def _as_token(sequences: Sequences) -> str:
    return ",".join(f"{context}:{number}:{n}" for (context, number), n in sequences.items())
