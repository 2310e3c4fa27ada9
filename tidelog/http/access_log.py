"""The access log, written behind the answers' back.

A request only leaves a tuple; lines are made and written by a thread, a batch at a time. What the
bounded buffer cannot hold is dropped and counted, for a log must not slow the log that matters.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

PENDING_MAX: Final = 10_000
FLUSH_INTERVAL_S: Final = 0.25
SLOW_S: Final = 1.0


class AccessLog:
    """One JSON line per request. Unless `everything`, only faults (5xx) and slow requests."""

    def __init__(self, service: str, instance: str, *, everything: bool) -> None:
        self.everything: Final = everything
        self._service = service
        self._instance = instance
        self._pending: deque[dict[str, Any]] = deque()
        self._dropped = 0

    def record(
        self,
        method: str,
        route: str,
        status: int,
        seconds: float,
        correlation_id: str | None,
    ) -> None:
        """Note one answered request."""
        if not (self.everything or status >= 500 or seconds >= SLOW_S):
            return
        if len(self._pending) >= PENDING_MAX:
            self._dropped += 1
            return
        self._pending.append(
            {
                "event": "request",
                "level": "info",
                "logger": "tidelog.http.access",
                "service": self._service,
                "instance": self._instance,
                "timestamp": datetime.now(UTC),
                "method": method,
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
                "correlation_id": correlation_id,
            }
        )

    async def run(self) -> None:
        """Write what is pending, for ever; on cancellation write what is left."""
        try:
            while True:
                await asyncio.sleep(FLUSH_INTERVAL_S)
                if self._pending:
                    await asyncio.to_thread(self.flush)
        finally:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        lines: list[bytes] = []
        while self._pending and len(lines) < PENDING_MAX:
            lines.append(msgspec.json.encode(self._pending.popleft()))
        if self._dropped:
            lines.append(
                msgspec.json.encode({"event": "access log lines dropped", "count": self._dropped})
            )
            self._dropped = 0
        if lines:
            sys.stderr.write(b"\n".join([*lines, b""]).decode())
            sys.stderr.flush()
