"""R6: a rebuild ÷ the slower of raw consume + decode and raw COPY; ÷ an upsert per event."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bench.event_log import PARTITIONS, LogSpec, fresh_prefix
from bench.parallel import ParallelSide
from bench.peers.raw_consume import NaiveUpsert, RawConsume
from bench.peers.raw_copy import RawCopy
from bench.projecting import SUMMARY, folded_log
from bench.rebuilding import RebuildSide
from bench.rounds import Measure, Ratio
from bench.stack import Stack
from bench.workers import SideSpec

ORDERS = 50_000
PROCESSES = 2
OURS, PROVED = "tidelog rebuild, bulk load", "tidelog rebuild, verified"
NAIVE = "naive, an upsert per event"
READ, COPY = f"raw consume + decode, {PROCESSES} processes", f"raw COPY, {PROCESSES} processes"


def measures(stack: Stack, _partitions: Sequence[int]) -> list[Measure]:
    """One measure, on four partitions."""
    log = LogSpec(prefix=fresh_prefix("r6"), orders=ORDERS)
    return [
        Measure(
            title=f"R6 rebuild, {log.events:,} events of {log.orders:,} orders",
            partitions=PARTITIONS,
            sides=[
                SideSpec(
                    label=OURS,
                    make=RebuildSide,
                    arguments=(stack, log, PROCESSES, "load_seconds"),
                ),
                SideSpec(label=PROVED, make=RebuildSide, arguments=(stack, log, PROCESSES)),
                _parallel(READ, [_reader(stack, log, number) for number in range(PROCESSES)]),
                _parallel(COPY, [_loader(stack, log, number) for number in range(PROCESSES)]),
                SideSpec(label=NAIVE, make=NaiveUpsert, arguments=(stack, log)),
            ],
            ratios=[
                *(_slower_raw(label) for label in (OURS, PROVED)),
                Ratio(name="R6, naive", ours=OURS, peers=(NAIVE,), floor=15, goal=50),
            ],
            note="Per second are events; a row that is copied stands for the events of its order.",
            around=partial(folded_log, stack, log, SUMMARY),
        )
    ]


def _slower_raw(ours: str) -> Ratio:
    name, peers = "R6, the slower raw side", (READ, COPY)
    return Ratio(name=name, ours=ours, peers=peers, floor=0.5, goal=1.0, by_slowest=True)


def _parallel(label: str, parts: list[SideSpec]) -> SideSpec:
    return SideSpec(label=label, make=ParallelSide, arguments=(parts,), has_workers=True)


def _reader(stack: Stack, log: LogSpec, number: int) -> SideSpec:
    partitions = range(number, PARTITIONS, PROCESSES)
    arguments = (stack, log, partitions, log.events_in(partitions))
    return SideSpec(label=f"{READ}, {number}", make=RawConsume, arguments=arguments)


def _loader(stack: Stack, log: LogSpec, number: int) -> SideSpec:
    arguments = (stack, log, number, PROCESSES)
    return SideSpec(label=f"{COPY}, {number}", make=RawCopy, arguments=arguments)
