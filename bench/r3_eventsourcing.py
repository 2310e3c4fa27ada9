"""R3: commands per second in process ÷ the library `eventsourcing` on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from bench.ours import ClientsSide, HostSpec
from bench.peers.eventsourcing_peer import EventSourcingSide
from bench.rounds import Measure, Ratio
from bench.stack import Stack
from bench.workers import SideSpec

CLIENTS_FEW, CLIENTS_MANY = 64, 1_024
EXPECTED = {CLIENTS_FEW: (3.0, 6.0), CLIENTS_MANY: (5.0, 15.0)}
DURABLE = {"eventsourcing, 64 threads": (64, True)}
EQUAL = {
    "eventsourcing, 64 threads, fsync off": (64, False),
    "eventsourcing, 16 threads, fsync off": (16, False),
}
PEERS = DURABLE | EQUAL


def measures(stack: Stack, partitions: Sequence[int]) -> list[Measure]:
    """One measure per partition count."""
    return [_measure(stack, count) for count in partitions]


def _measure(stack: Stack, partitions: int) -> Measure:
    ours = {clients: f"tidelog, {clients:,} clients" for clients in EXPECTED}
    return Measure(
        title=f"R3 against eventsourcing on PostgreSQL, partitions: {partitions}",
        partitions=partitions,
        sides=[
            *(_ours(stack, label, partitions, clients) for clients, label in ours.items()),
            *(_peer(stack, label, partitions) for label in PEERS),
        ],
        ratios=[
            Ratio(name=name, ours=label, peers=tuple(against), floor=floor, goal=goal)
            for name, against in (("R3", DURABLE), ("R3 without fsync", EQUAL))
            for label, (floor, goal) in zip(ours.values(), EXPECTED.values(), strict=True)
        ],
        note="More clients than threads wait their turn at no cost to the peer, so its best "
        "thread count serves both 64 and 1,024 clients.",
    )


def _ours(stack: Stack, label: str, partitions: int, clients: int) -> SideSpec:
    spec = HostSpec(stack=stack, prefix=f"r3p{partitions}n{clients}.", partitions=partitions)
    return SideSpec(label=label, make=ClientsSide, arguments=(spec, clients))


def _peer(stack: Stack, label: str, partitions: int) -> SideSpec:
    threads, fsync = PEERS[label]
    schema = f"r3p{partitions}t{threads}f{int(fsync)}"
    arguments = (stack, threads, fsync, schema)
    return SideSpec(label=label, make=EventSourcingSide, arguments=arguments)
