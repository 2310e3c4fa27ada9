"""What stands when something falls: every route of the public door, while one part does not answer.

Each part is stopped twice: once it hangs (SIGSTOP: it takes connections and says nothing), once it
is gone (killed, and killed again whenever it is started anew). All routes are asked at once when it
has fallen, and again when the breakers know; then it is healed, until all of them are answered.
A route that falls without need is a fault, and so is an answer that says nothing useful.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2 as httpx
import psycopg

from gateway.routes import RoutedPath
from tests.service_process import children_of
from tests.torture.breaker_watch import BreakerWatch, Figures
from tests.torture.route_needs import (
    COMMAND_SERVICE,
    POSTGRES,
    QUERY_SERVICE,
    SKU,
    Made,
    Question,
    order_body,
    public_paths,
    questions,
    unexpected,
)
from tests.torture.saga_faults import System
from tests.torture.saga_load import PLENTY, until

PROVIDER: Final = "payment_provider"
ANSWER_TIMEOUT_S: Final = 25.0
"""Longer than anything may take: who hears nothing by then has no answer."""

WORKING_TIMEOUT_S: Final = 120.0
BREAKER_TIMEOUT_S: Final = 45.0
AT_ONCE_S: Final = 0.5
NOTICEABLE_S: Final = 2.0
LOOK_S: Final = 0.02
PAUSE_S: Final = 0.25
ORDERS: Final = 24
"""So many orders are paid while the provider is down: enough for its breaker to judge."""

TELLING: Final = frozenset((502, 503, 504))
"""Of the statuses from 500 on, those that say what is the matter and that it passes."""


class Fault(NamedTuple):
    """A part, and the way in which it does not answer."""

    part: str
    hangs: bool

    def __str__(self) -> str:
        return f"{self.part} {'hangs' if self.hangs else 'is gone'}"


FAULTS: Final = tuple(
    Fault(part, hangs)
    for part in (QUERY_SERVICE, POSTGRES, PROVIDER, COMMAND_SERVICE)
    for hangs in (True, False)
)


class Answered(NamedTuple):
    """What came, and when; status 0 where nothing did."""

    status: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether the route stands: it is answered, be it with a refusal."""
        return 0 < self.status < 500

    def __str__(self) -> str:
        if self.good:
            slow = self.seconds >= NOTICEABLE_S
            return f"answers after {self.seconds:.0f} s" if slow else "answers"
        if self.status == 0:
            return "NO ANSWER"
        when = "at once" if self.seconds < AT_ONCE_S else f"after {self.seconds:.0f} s"
        return f"{self.status} {when}"


@dataclass
class Fallen:
    """What was seen while one part did not answer."""

    fault: Fault
    first: dict[str, Answered] = field(default_factory=dict)
    then: dict[str, Answered] = field(default_factory=dict)
    breakers: list[Figures] = field(default_factory=list)
    healed_s: float = 0.0
    """From the moment at which it answers again until every route does."""

    def cell(self, row: str) -> str:
        """The route's line in this column."""
        first, then = str(self.first[row]), str(self.then[row])
        return first if first == then else f"{first}, then {then}"


@dataclass
class Result:
    """What a run has seen."""

    asked: list[Question] = field(default_factory=list)
    fallen: list[Fallen] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass
class DependencyRun:
    """One run against the system that `dev_file` describes."""

    dev_file: Path
    faults: Sequence[Fault] = FAULTS
    say: Callable[[str], None] = print
    result: Result = field(default_factory=Result)
    system: System = field(init=False)
    paths: list[RoutedPath] = field(default_factory=public_paths)
    examples: dict[str, Any] = field(default_factory=dict)
    made: Made = field(init=False)

    def __post_init__(self) -> None:
        self.system = System(self.dev_file)

    async def play(self) -> Result:
        """Every fault in turn; all is healed between them."""
        missing = unexpected(self.paths)
        self.result.faults += [f"{each}: nobody has said what it needs" for each in missing]
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        async with httpx.AsyncClient(
            base_url=self.system.url("gateway"), limits=limits, timeout=None, trust_env=False
        ) as http:
            await self._prepare(http)
            for fault in self.faults:
                self.say(f"{fault} …")
                fallen = await self._fall(http, fault)
                self.result.fallen.append(fallen)
                self.result.faults += judged(self.result.asked, fallen)
        return self.result

    async def _prepare(self, http: httpx.AsyncClient) -> None:
        """Goods on the shelf, an order and an operation to ask for, and every route answered."""
        self.examples = _examples((await http.get("/openapi.json")).json())
        received = await http.post(f"/inventory/{SKU}/receive-stock", json={"quantity": PLENTY})
        order_id = f"order-{uuid.uuid4().hex}"
        placed = await http.post(f"/orders/{order_id}/place-order", json=order_body())
        queued = await http.post(
            f"/orders/{order_id}-queued/place-order",
            json=order_body(),
            headers={"Prefer": "respond-async"},
        )
        statuses = (received.status_code, placed.status_code, queued.status_code)
        assert statuses == (201, 201, 202), f"the system does not take commands: {statuses}"
        self.made = Made(order_id, queued.json()["id"])
        self.result.asked = self._questions()
        await self._until_all_answer(http)

    def _questions(self) -> list[Question]:
        return questions(self.paths, self.examples, self.made, f"order-{uuid.uuid4().hex}")

    # --- one fault --------------------------------------------------------------------------

    async def _fall(self, http: httpx.AsyncClient, fault: Fault) -> Fallen:
        fallen = Fallen(fault)
        watches = self._watches(fault)
        async with _watching(watches):
            async with self._stopped(fault):
                stopped_at = time.monotonic()
                paying = asyncio.create_task(self._pay(http, fault))
                fallen.first = await self._ask_all(http)
                await paying
                for watch in watches:
                    await self._until_open(http, watch)
                fallen.then = await self._ask_all(http)
            answers_at = await self._answers_again(http, fault)
            await self._until_all_answer(http)
            fallen.healed_s = time.monotonic() - answers_at
            for watch in watches:
                await until(watch.is_closed, BREAKER_TIMEOUT_S, LOOK_S)
        fallen.breakers = [watch.figures(stopped_at, answers_at) for watch in watches]
        return fallen

    async def _until_open(self, http: httpx.AsyncClient, watch: BreakerWatch) -> None:
        """Ask on: a breaker weighs failures against what it has seen succeed shortly before."""

        async def is_open() -> bool:
            if not await watch.is_open():
                await self._ask_all(http)
            return await watch.is_open()

        await until(is_open, BREAKER_TIMEOUT_S, PAUSE_S)

    def _watches(self, fault: Fault) -> list[BreakerWatch]:
        """The breakers that must open: of whoever asks the part itself."""
        if fault.part in (QUERY_SERVICE, COMMAND_SERVICE):
            return [BreakerWatch(self.system.process_url("gateway"), fault.part)]
        if fault.part == PROVIDER:
            return [BreakerWatch(self.system.process_url("effects"), fault.part)]
        return []  # who asks PostgreSQL has a pool with a bounded wait instead

    @contextlib.asynccontextmanager
    async def _stopped(self, fault: Fault) -> AsyncIterator[None]:
        """The part does not answer within the block."""
        if fault.hangs:
            pids = _tree(self.system.pid(fault.part))
            _signal(pids, signal.SIGSTOP)
            try:
                yield
            finally:
                _signal(pids, signal.SIGCONT)
            return
        killing = asyncio.create_task(self._keep_down(fault.part))
        try:
            yield
        finally:
            killing.cancel()

    async def _keep_down(self, part: str) -> None:
        """Kill it whenever it is started: whoever keeps the system running does so again."""
        while True:
            pid = self.system.pid(part)
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            await asyncio.sleep(LOOK_S)

    async def _answers_again(self, http: httpx.AsyncClient, fault: Fault) -> float:
        """The moment at which the part itself answers again."""

        async def answers() -> bool:
            if fault.part == POSTGRES:
                return await asyncio.to_thread(_connects, self.system.dev()["postgres"]["dsn"])
            url = self.system.process_url(fault.part)
            try:
                return (await http.get(f"{url}/livez", timeout=1.0)).status_code < 500
            except httpx.HTTPError:
                return False

        await until(answers, WORKING_TIMEOUT_S, LOOK_S)
        return time.monotonic()

    async def _pay(self, http: httpx.AsyncClient, fault: Fault) -> None:
        """Orders that want to be paid for, where it is the provider that is down."""
        if fault.part != PROVIDER:
            return
        await asyncio.gather(
            *(
                http.post(f"/orders/order-{uuid.uuid4().hex}/place-order", json=order_body())
                for _ in range(ORDERS)
            )
        )

    # --- asking -----------------------------------------------------------------------------

    async def _ask_all(self, http: httpx.AsyncClient) -> dict[str, Answered]:
        """Every route at the same time; by row."""
        asked = self._questions()
        answers = await asyncio.gather(*(ask(http, question) for question in asked))
        return dict(zip((question.row for question in asked), answers, strict=True))

    async def _until_all_answer(self, http: httpx.AsyncClient) -> None:
        async def all_answer() -> bool:
            answers = await self._ask_all(http)
            return all(answer.good for answer in answers.values())

        if not await until(all_answer, WORKING_TIMEOUT_S, PAUSE_S):
            answers = await self._ask_all(http)
            silent = {row: str(each) for row, each in answers.items() if not each.good}
            raise AssertionError(f"not answered though all is well: {silent}")


async def ask(http: httpx.AsyncClient, question: Question) -> Answered:
    """The answer to one question; of a stream its beginning."""
    began = time.monotonic()
    try:
        async with (
            asyncio.timeout(ANSWER_TIMEOUT_S),
            http.stream(
                question.method,
                question.path,
                content=question.body,
                headers=dict(question.headers),
            ) as answer,
        ):
            status = answer.status_code
            if not question.streams:
                status = _status_of_lines(status, answer, await answer.aread())
    except (httpx.HTTPError, TimeoutError):
        status = 0
    return Answered(status, time.monotonic() - began)


def judged(asked: Sequence[Question], fallen: Fallen) -> list[str]:
    """What is wrong with the answers of one fault."""
    faults = []
    for question in asked:
        needed = fallen.fault.part in question.needs.parts
        for answer in (fallen.first[question.row], fallen.then[question.row]):
            if not needed and not answer.good:
                faults.append(f"{question.row}: {answer} while {fallen.fault}: it needs no such")
            elif not answer.good and answer.status not in TELLING:
                faults.append(f"{question.row}: {answer} while {fallen.fault}")
    faults += [
        f"{fallen.fault}: the breaker {each.name} never {what}"
        for each in fallen.breakers
        for what, seconds in (("opened", each.opened_s), ("closed", each.closed_s))
        if seconds is None
    ]
    return faults


def _status_of_lines(status: int, answer: httpx.Response, content: bytes) -> int:
    """Where many commands are answered at once, the status of the worst of them."""
    if "ndjson" not in answer.headers.get("content-type", ""):
        return status
    return max(int(json.loads(line)["status"]) for line in content.splitlines())


def _examples(document: dict[str, Any]) -> dict[str, Any]:
    """A body for each command, as /openapi.json shows it, by `context/command`."""
    found = {}
    for path, operations in document["paths"].items():
        segments = path.split("/")
        if "post" in operations and len(segments) == 4:
            content = operations["post"]["requestBody"]["content"]
            found[f"{segments[1]}/{segments[3]}"] = content["application/json"]["example"]
    return found


def _connects(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _tree(pid: int) -> list[int]:
    """A process and all that it has started, however deep."""
    return [pid, *(each for child in children_of(pid) for each in _tree(child))]


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # a connection's process may have ended
            os.kill(pid, number)


@contextlib.asynccontextmanager
async def _watching(watches: Sequence[BreakerWatch]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
