"""The way of a command to its owner over real gRPC, between instances with writers in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from command_service.aggregates import AGGREGATES
from schemas.inventory import INVENTORY, ReceiveStock
from tests.service_process import free_port
from tidelog.breaker import BreakerOptions
from tidelog.canonical import command_hash
from tidelog.engine.command import Envelope, Outcome, Recorded, Refused
from tidelog.errors import IdempotencyKeyReused, Invalid, NotOwner, Overloaded, TidelogError
from tidelog.grpc.command_server import PEER_SERVICE, PeerHandlers
from tidelog.grpc.errors import error_of, refusal_of
from tidelog.grpc.forwarding import ForwardingDoor
from tidelog.grpc.peers import Peers
from tidelog.grpc.server import GrpcServer
from tidelog.http.problems import known_problems, problem_of
from tidelog.ids import uuid7
from tidelog.kafka.membership import Place
from tidelog.kafka.owners import OwnerDirectory, address_in, client_id_of
from tidelog.memory import MemoryDoor
from tidelog.memory.codec import MemoryCodec
from tidelog.wire import commands_topic

PARTITIONS = 4
HOST = "127.0.0.1"
KNOWN = known_problems(AGGREGATES)
CODEC = MemoryCodec(INVENTORY.command_types)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def command(sku: str, quantity: int = 1, command_id: str | None = None) -> Envelope:
    message = ReceiveStock(sku=sku, quantity=quantity)
    return Envelope(
        command_id=command_id or uuid7(),
        command_hash=command_hash(INVENTORY.full_name(ReceiveStock), message),
        key=sku,
        command=message,
        correlation_id="c",
        traceparent=TRACE,
    )


@dataclass
class Log:
    """What the group and the log know: the owner of each partition, and the one writer of it."""

    owners: dict[int, str] = field(default_factory=dict)
    door: MemoryDoor = field(default_factory=lambda: MemoryDoor(AGGREGATES, partitions=PARTITIONS))

    def described(self) -> dict[Place, str]:
        return {(commands_topic("inventory"), n): owner for n, owner in self.owners.items()}


class Local:
    """The partitions that one instance owns."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.address = ""
        self.submitted = 0

    def owns(self, context: str, key: str) -> bool:
        return self.log.owners.get(self.partition_of(context, key)) == self.address

    def place_of(self, context: str, key: str) -> Place:
        return commands_topic(context), self.partition_of(context, key)

    def partition_of(self, context: str, key: str) -> int:
        return self.log.door.partition_of(context, key)

    async def submit(self, context: str, envelope: Envelope) -> Outcome:
        self.submitted += 1
        if not self.owns(context, envelope.key):
            raise NotOwner("not here")
        return await self.log.door.submit(context, envelope)

    async def enqueue(self, context: str, envelope: Envelope) -> None:
        await self.log.door.enqueue(context, envelope)


@dataclass
class Instance:
    """One command service without Kafka."""

    local: Local
    peers: Peers
    directory: OwnerDirectory
    door: ForwardingDoor
    server: GrpcServer

    @property
    def address(self) -> str:
        return self.local.address


@asynccontextmanager
async def instances(
    log: Log, number: int, command_timeout_ms: int = 5_000, **options: Any
) -> AsyncIterator[list[Instance]]:
    """So many instances, of which the first owns everything."""
    made = [await instance(log, command_timeout_ms, **options) for _ in range(number)]
    log.owners.update(dict.fromkeys(range(PARTITIONS), made[0].address))
    try:
        yield made
    finally:
        for each in made:
            await each.server.stop(0)
            await each.peers.close()


async def instance(log: Log, command_timeout_ms: int, port: int = 0, **options: Any) -> Instance:
    local = Local(log)
    peers = Peers(CODEC, KNOWN, **options)
    directory = OwnerDirectory(log.described)
    door = ForwardingDoor(
        local,
        peers,
        directory,
        command_timeout_ms=command_timeout_ms,
        own_address=lambda: local.address,
    )
    services = [(PEER_SERVICE, PeerHandlers(local.submit, CODEC).handlers())]
    server = GrpcServer(services, ready=lambda: True)
    local.address = f"{HOST}:{await server.start(HOST, port)}"
    return Instance(local, peers, directory, door, server)


def recorded(outcome: Outcome) -> Recorded:
    assert isinstance(outcome, Recorded), outcome
    return outcome


def refused(outcome: Outcome) -> TidelogError:
    assert isinstance(outcome, Refused), outcome
    return outcome.error


async def test_a_command_is_decided_by_its_owner_whoever_is_asked() -> None:
    log = Log()
    async with instances(log, 3) as (owner, *others):
        first = command("mug", 5)
        assert recorded(await owner.door.submit("inventory", first)).version == 1
        for other in others:
            # then the owner's table of seen commands and its state answer
            again = recorded(await other.door.submit("inventory", first))
            assert (again.version, again.replayed, again.events) == (
                1, True, (("StockReceived", 1),),
            )  # fmt: skip
            same_id = command("mug", 6, first.command_id)
            error = refused(await other.door.submit("inventory", same_id))
            assert isinstance(error, IdempotencyKeyReused)


async def test_a_forwarded_command_is_never_forwarded_again() -> None:
    log = Log()
    async with instances(log, 3) as (owner, asked, third):
        # given an instance that takes the third for the owner, which is wrong
        place = asked.local.place_of("inventory", "mug")
        asked.directory._owners[place] = third.address
        assert recorded(await asked.door.submit("inventory", command("mug"))).version == 1
        # then the third said no, and the group was asked again
        assert (third.local.submitted, owner.local.submitted) == (1, 1)
        assert await asked.directory.owner(place) == owner.address


async def test_a_command_waits_for_a_partition_that_moves() -> None:
    log = Log()
    async with instances(log, 2) as (first, second):
        log.owners.clear()
        waiting = asyncio.create_task(first.door.submit("inventory", command("mug")))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        log.owners.update(dict.fromkeys(range(PARTITIONS), second.address))
        assert recorded(await waiting).version == 1
        assert second.local.submitted == 1


async def test_a_key_that_nobody_owns_is_refused_in_time() -> None:
    log = Log()
    async with instances(log, 1, command_timeout_ms=900) as (one,):
        log.owners.clear()
        began = time.monotonic()
        error = refused(await one.door.submit("inventory", command("mug")))
        assert isinstance(error, NotOwner)
        assert time.monotonic() - began < 0.9, "before the command's time is over"


async def test_an_owner_that_died_is_given_up_when_the_group_names_another() -> None:
    log = Log()
    async with instances(log, 2) as (one, other):
        log.owners.update(dict.fromkeys(range(PARTITIONS), f"{HOST}:{free_port()}"))
        waiting = asyncio.create_task(one.door.submit("inventory", command("mug")))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        log.owners.update(dict.fromkeys(range(PARTITIONS), other.address))
        assert recorded(await waiting).version == 1


async def test_an_owner_that_hangs_is_given_up_when_the_group_names_another() -> None:
    log = Log()
    async with instances(log, 2, attempt_s=0.2) as (one, other), hanging() as hung:
        log.owners.update(dict.fromkeys(range(PARTITIONS), hung.address))
        waiting = asyncio.create_task(one.door.submit("inventory", command("mug")))
        await until(lambda: hung.asked > 0)
        log.owners.update(dict.fromkeys(range(PARTITIONS), other.address))
        assert recorded(await waiting).version == 1
        # then the deadline was carried: the hung owner knows that nobody waits any more
        await until(lambda: hung.cancelled == hung.asked)


async def test_places_at_a_peer_are_bounded_and_other_peers_have_theirs() -> None:
    log = Log()
    async with instances(log, 2, calls_max=3) as (one, other), hanging() as hung:
        log.owners[one.local.partition_of("inventory", "mug")] = hung.address
        waiting = [
            asyncio.create_task(one.door.submit("inventory", command("mug"))) for _ in range(3)
        ]
        await until(lambda: hung.asked == 3)
        with pytest.raises(Overloaded):
            await one.door.submit("inventory", command("mug"))
        key = another_partition(one.local, "mug")
        log.owners[one.local.partition_of("inventory", key)] = other.address
        assert recorded(await one.door.submit("inventory", command(key))).version == 1
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_a_breaker_spares_a_dead_peer_and_closes_when_it_is_back() -> None:
    log = Log()
    port = free_port()
    breaker = BreakerOptions(window_s=5, calls_min=3, open_s=0.3)
    async with instances(log, 1, breaker=breaker) as (one,):
        address = f"{HOST}:{port}"
        for _ in range(3):
            with pytest.raises(NotOwner):
                await one.peers.submit(address, "inventory", command("mug"), 1.0)
        assert one.peers._peers[address]._breaker.state == "open"
        back = await instance(log, 5_000, port)
        log.owners.update(dict.fromkeys(range(PARTITIONS), back.address))
        try:
            assert recorded(await one.door.submit("inventory", command("mug"))).version == 1
        finally:
            await back.server.stop(0)
            await back.peers.close()


@pytest.mark.parametrize("kind", KNOWN.values(), ids=str)
def test_an_error_is_the_same_problem_on_both_sides(kind: type[TidelogError]) -> None:
    for error in made(kind):
        back = error_of(refusal_of(error), KNOWN)
        assert problem_of(back, "/a/b/c", "t") == problem_of(error, "/a/b/c", "t")
        assert back.status == 500 or type(back) is type(error)


def made(kind: type[TidelogError]) -> Iterable[TidelogError]:
    """An error of the kind, if commands can meet it."""
    if kind.__name__ in ("NotYetVisible", "MethodNotAllowed"):
        return []
    arguments: dict[str, tuple[Any, ...]] = {"StaleVersion": (7,), "IdempotencyKeyReused": ()}
    if kind is Invalid:
        return [Invalid("Wrong.", "/lines/0")]
    return [kind(*arguments.get(kind.__name__, ("Some words.",)))]


def test_a_rule_that_only_a_newer_release_has_is_the_same_problem() -> None:
    stands = next(rule for rule in KNOWN.values() if rule.__name__ == "OrderNeverPlaced")
    without = {name: kind for name, kind in KNOWN.items() if kind is not stands}
    back = error_of(refusal_of(stands("an-id")), without)
    assert problem_of(back, "/a", "t") == problem_of(stands("an-id"), "/a", "t")


def test_an_address_travels_in_the_client_id() -> None:
    for address in ("127.0.0.1:5001", "[::1]:80", "shop-2.shop.svc:9000"):
        assert address_in(client_id_of(address)) == address
    assert address_in("rdkafka") is None


@dataclass
class Hanging:
    """An owner that takes commands and never answers."""

    address: str = ""
    asked: int = 0
    cancelled: int = 0

    async def submit(self, _context: str, _envelope: Envelope) -> Outcome:
        self.asked += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError("it never answers")


@asynccontextmanager
async def hanging() -> AsyncIterator[Hanging]:
    hung = Hanging()
    services = [(PEER_SERVICE, PeerHandlers(hung.submit, CODEC).handlers())]
    server = GrpcServer(services, ready=lambda: True)
    hung.address = f"{HOST}:{await server.start(HOST, 0)}"
    try:
        yield hung
    finally:
        await server.stop(0)


def another_partition(local: Local, key: str) -> str:
    """A key of another partition than this one's."""
    number = local.partition_of("inventory", key)
    names = (f"{key}-{n}" for n in range(100))
    return next(name for name in names if local.partition_of("inventory", name) != number)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)
