"""A transactional producer as the client library gives it: it queues, sends, retries, and ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tidelog.engine.ports import OutgoingRecord
from tidelog.memory import ConcurrentTransactions, MemoryLog

from .domain import refused_by_broker
from .network import BrokerRefuses, Network
from .scheduler import Scheduler

RETRY_MS = 4.0


class Host(Protocol):
    """What a handle needs of the process that it lives in."""

    scheduler: Scheduler
    network: Network
    log: MemoryLog

    def later(self, delay_ms: float, action: Callable[[], None]) -> None:
        """A step of the process."""
        ...


class Handle:
    """One transactional id in one process. Nothing happens any more once it is destroyed."""

    def __init__(self, host: Host, transactional_id: str) -> None:
        self._host = host
        self.transactional_id = transactional_id
        self.epoch = -1
        self.destroyed = False
        self.error: Exception | None = None  # since the transaction began
        self._added = False  # the partition is part of the transaction
        self._queue: list[OutgoingRecord] = []
        self._sending = False
        self._first = self._last = -1
        self._flushed: Callable[[], None] | None = None

    def init(self, done: Callable[[Exception | None], None]) -> None:
        """Fence whoever used the id before; waits while the last marker is not written yet."""

        def answer(result: Any) -> None:
            if self.destroyed:
                return
            if isinstance(result, ConcurrentTransactions):
                self._host.later(RETRY_MS, lambda: self.init(done))
            elif isinstance(result, Exception):
                done(result)
            else:
                self.epoch = result
                done(None)

        self._request("init", lambda: self._host.log.init(self.transactional_id), answer)

    def append(self, begin: bool, records: Sequence[OutgoingRecord]) -> bool:
        """Queue records, which is immediate and local; False if the handle has failed already."""
        if self.error is not None:
            return False
        if begin:
            self._added, self._first, self._last = False, -1, -1
        self._queue.extend(records)
        self._send()
        return True

    def commit(
        self,
        delivered: Callable[[], None],
        done: Callable[[Exception | tuple[int, int]], None],
    ) -> None:
        """Wait for the records, then end the transaction; where they landed, or an error."""

        def flushed() -> None:
            if self.error is not None:
                done(self.error)
                return
            delivered()
            self._request("commit", lambda: self._end(commit=True), answer)

        def answer(result: Any) -> None:
            if isinstance(result, Exception):
                self.error = result
                done(result)
            else:
                done((self._first, self._last))

        self._flushed = flushed
        self._flush()

    def abort(self, done: Callable[[Exception | None], None]) -> None:
        """Abort the transaction on the same handle. The engine never does; a planted bug does."""

        def answer(result: Any) -> None:
            self.error = None
            done(result if isinstance(result, Exception) else None)

        self._queue.clear()
        self._request("abort", lambda: self._end(commit=False), answer)

    def _end(self, *, commit: bool) -> None:
        self._host.log.end(self.transactional_id, self.epoch, commit=commit)

    def _send(self) -> None:
        """Send some of the queue in one request; the next follows when it has been answered."""
        if self._sending or not self._queue or self.destroyed:
            return
        self._sending = True
        count = self._host.scheduler.random.randint(1, len(self._queue))
        records, self._queue = self._queue[:count], self._queue[count:]
        self._produce(_Produce(self, records, begin=not self._added))

    def _produce(self, produce: _Produce) -> None:
        def answer(result: Any) -> None:
            if self.destroyed:
                return
            if isinstance(result, ConcurrentTransactions):
                self._host.later(RETRY_MS, lambda: self._produce(produce))
                return
            self._sending = False
            if isinstance(result, Exception):
                self.error = result
                self._queue.clear()
            else:
                self._added = True
                first, self._last = result
                self._first = first if self._first < 0 else self._first
            self._send()
            self._flush()

        self._request(f"produce {len(produce.records)}", produce.apply, answer)

    def _flush(self) -> None:
        if self._flushed is not None and not self._sending and not self._queue:
            flushed, self._flushed = self._flushed, None
            flushed()

    def _request(self, name: str, apply: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        def unless_destroyed(result: Any) -> None:
            if not self.destroyed:
                answer(result)

        host = self._host
        label = f"{self.transactional_id}/{self.epoch} {name}"
        host.network.request(label, apply, host.later, unless_destroyed)


class _Produce:
    """One produce request."""

    def __init__(self, handle: Handle, records: Sequence[OutgoingRecord], *, begin: bool) -> None:
        self._handle = handle
        self._begin = begin
        self.records = records

    def apply(self) -> tuple[int, int]:
        """What the broker does with it."""
        handle = self._handle
        if any(refused_by_broker(record.value) for record in self.records):
            raise BrokerRefuses("a record of this batch is not acceptable")
        return handle._host.log.append(
            handle.transactional_id, handle.epoch, self.records, begin=self._begin
        )
