"""The watch over markers: a partition that has fallen quiet is looked at, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tidelog.errors import Unavailable
from tidelog.kafka import marker_watch
from tidelog.kafka.marker_watch import LOOKS_MAX, MarkerWatch

pytestmark = pytest.mark.usefixtures("short_quiet")


@pytest.fixture
def short_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marker_watch, "QUIET_S", 0.01)


class Partition:
    """Answers the looks in turn, the last one for ever, and counts them."""

    def __init__(self, answers: Sequence[bool | Exception]) -> None:
        self._answers = list(answers)
        self.looks = 0
        self.overdue = asyncio.Event()
        self._pool = ThreadPoolExecutor(1)
        self.watch = MarkerWatch(
            "orders-0",
            asyncio.get_running_loop(),
            self._aside,
            self._settled,
            self.overdue.set,
        )

    def _aside(self, work: Callable[[], None]) -> object:
        return self._pool.submit(work)

    def _settled(self) -> bool:
        self.looks += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def looked(self, times: int) -> None:
        async with asyncio.timeout(20):
            while self.looks < times:
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        self.watch.stop()
        await asyncio.to_thread(self._pool.shutdown)


async def test_a_marker_that_came_is_looked_for_once() -> None:
    partition = Partition([True])
    partition.watch.committed()
    await partition.looked(1)
    await asyncio.sleep(0.1)  # ten times the quiet: room for a second look
    assert partition.looks == 1
    assert not partition.overdue.is_set()
    await partition.close()


async def test_a_marker_that_never_comes_is_overdue() -> None:
    partition = Partition([False])
    partition.watch.committed()
    async with asyncio.timeout(20):
        await partition.overdue.wait()
    assert partition.looks == LOOKS_MAX
    await partition.close()


async def test_a_broker_that_does_not_answer_makes_no_marker_overdue() -> None:
    partition = Partition([*[Unavailable("down")] * (2 * LOOKS_MAX), True])
    partition.watch.committed()
    await partition.looked(2 * LOOKS_MAX + 1)
    assert not partition.overdue.is_set()
    await partition.close()


async def test_nothing_is_looked_at_while_commits_come() -> None:
    partition = Partition([False])
    for _ in range(50):
        partition.watch.committed()
        await asyncio.sleep(0.001)
    assert not partition.overdue.is_set()
    await partition.close()


async def test_a_watch_that_has_stopped_looks_no_more() -> None:
    partition = Partition([False])
    partition.watch.committed()
    partition.watch.stop()
    await asyncio.sleep(0.1)
    assert partition.looks == 0
    await partition.close()
