"""R5: live projection of one read model ÷ raw consume + decode of the same records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bench.event_log import PARTITIONS, LogSpec, event_logs, fresh_prefix
from bench.peers.quix_environment import quix_python
from bench.peers.raw_consume import NaiveUpsert, RawConsume
from bench.readers import FAUST, QUIX_MODULE, PeerProcess, PeerSide, ProjectorSide
from bench.rounds import Measure, Ratio
from bench.stack import Stack
from bench.workers import SideSpec

ORDERS = 50_000
FAR_APART = 10_000
OURS, OURS_APART = "tidelog", "tidelog, orders far apart"
RAW, NAIVE = "raw consume + decode", "naive, an upsert per event"
FLOOR, GOAL = 0.25, 0.5


def measures(stack: Stack, _partitions: Sequence[int]) -> list[Measure]:
    """One measure, on four partitions."""
    log = LogSpec(prefix=fresh_prefix("r5"), orders=ORDERS)
    apart = LogSpec(prefix=fresh_prefix("r5apart"), orders=ORDERS, apart=FAR_APART)
    peers = {f"{peer.name}, {peer.writes}": peer for peer in _peer_processes()}
    sides = [
        SideSpec(label=OURS, make=ProjectorSide, arguments=(stack, log)),
        SideSpec(label=OURS_APART, make=ProjectorSide, arguments=(stack, apart)),
        SideSpec(label=RAW, make=RawConsume, arguments=(stack, log, range(PARTITIONS), log.events)),
        SideSpec(label=NAIVE, make=NaiveUpsert, arguments=(stack, log)),
        *(
            SideSpec(label=label, make=PeerSide, arguments=(stack, log, peer))
            for label, peer in peers.items()
        ),
    ]
    expected = [
        Ratio(name="R5", ours=label, peers=(RAW,), floor=FLOOR, goal=GOAL)
        for label in (OURS, OURS_APART)
    ]
    shown = [Ratio(name="R5 beside", ours=OURS, peers=(label,)) for label in (NAIVE, *peers)]
    return [
        Measure(
            title=f"R5 live projection, {log.events:,} events of {log.orders:,} orders",
            partitions=PARTITIONS,
            sides=sides,
            ratios=[*expected, *shown],
            note=f"Per second are events. An order's {log.events // log.orders} events lie "
            f"{log.apart} records apart, far apart: {apart.apart:,}. The clock starts with the "
            "first progress, so that starts and joining a group are outside.",
            around=partial(event_logs, stack, log, apart),
        )
    ]


def _peer_processes() -> list[PeerProcess]:
    faust = [
        PeerProcess(name="Faust", command=FAUST, writes="nothing", makes_table=False),
        PeerProcess(name="Faust", command=FAUST, writes="upsert", makes_table=True),
    ]
    python = quix_python()
    if python is None:
        return faust
    command = (python, *QUIX_MODULE)
    return [
        *faust,
        PeerProcess(name="Quix Streams", command=command, writes="nothing", makes_table=False),
        PeerProcess(name="Quix Streams", command=command, writes="sink", makes_table=False),
    ]
