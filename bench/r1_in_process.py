"""R1: commands per second in process ÷ raw idempotent produce of the same bytes and headers."""

from __future__ import annotations

from collections.abc import Sequence

from bench.ours import HostSpec, SlotsSide
from bench.peers.raw_produce import RawProduce
from bench.rounds import Measure, Ratio
from bench.stack import Stack
from bench.workers import SideSpec

IN_FLIGHT = (1_024, 4_096)
RAW = "raw produce"
FLOOR, GOAL = 0.3, 0.6


def measures(stack: Stack, partitions: Sequence[int]) -> list[Measure]:
    """One measure per partition count."""
    return [_measure(stack, count) for count in partitions]


def _measure(stack: Stack, partitions: int) -> Measure:
    ours = {f"tidelog, {count:,} in flight": count for count in IN_FLIGHT}
    raw = SideSpec(
        label=RAW, make=RawProduce, arguments=(stack, f"r1p{partitions}.raw", partitions)
    )
    return Measure(
        title=f"R1 in-process commands, partitions: {partitions}",
        partitions=partitions,
        sides=[*(_side(stack, label, partitions, count) for label, count in ours.items()), raw],
        ratios=[
            Ratio(name="R1", ours=label, peers=(RAW,), floor=FLOOR, goal=GOAL) for label in ours
        ],
        note="Envelopes and records are built before the clock starts, on both sides.",
    )


def _side(stack: Stack, label: str, partitions: int, in_flight: int) -> SideSpec:
    spec = HostSpec(stack=stack, prefix=f"r1p{partitions}n{in_flight}.", partitions=partitions)
    return SideSpec(label=label, make=SlotsSide, arguments=(spec, in_flight))
