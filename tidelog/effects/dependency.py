"""A system outside, spoken to over HTTP: within a time, behind a breaker, by a key."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, NamedTuple

import httpx2
import msgspec

from tidelog.breaker import BreakerOptions
from tidelog.effects.definition import NoAnswer, NotSent
from tidelog.effects.guard import Guard

CONNECTIONS_MAX = 64
SERVER_ERROR = 500
TOO_MANY = 429


class Answer(NamedTuple):
    """What the other side says. The status is below 500."""

    status: int
    body: dict[str, Any]


class Dependency:
    """One system. One event loop uses it; close it at the end."""

    def __init__(
        self, name: str, url: str, *, timeout_s: float, breaker: BreakerOptions | None = None
    ) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._guard = Guard(name, breaker)
        self._http = httpx2.AsyncClient(
            base_url=url,
            timeout=httpx2.Timeout(timeout_s),
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX),
            trust_env=False,
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        correlation_id: str,
        key: str = "",
        body: dict[str, Any] | None = None,
    ) -> Answer:
        """Ask, once. NotNow: the breaker is open. NotSent: nobody there. NoAnswer: not known."""
        headers = {"x-correlation-id": correlation_id} if correlation_id else {}
        if key:
            headers["idempotency-key"] = key
        return await self._guard.call(partial(self._ask, method, path, headers, body))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(
        self, method: str, path: str, headers: dict[str, str], body: dict[str, Any] | None
    ) -> Answer:
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._http.request(method, path, headers=headers, json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NotSent(f"{self.name} cannot be reached.") from error
        except (httpx2.TransportError, TimeoutError) as error:
            raise NoAnswer(f"{self.name} did not answer in {self._timeout_s:g} s.") from error
        if response.status_code >= SERVER_ERROR or response.status_code == TOO_MANY:
            raise NoAnswer(f"{self.name} answered {response.status_code}.")
        try:
            found = msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise NoAnswer(f"{self.name} answered what is no JSON object.") from error
        return Answer(response.status_code, found)
