"""R4: the engine's group commit ÷ a bare transaction loop, with batches of the same size."""

from __future__ import annotations

from collections.abc import Sequence

from bench.ours import ClientsSide, HostSpec
from bench.peers.raw_transactions import OverlappedTransactions, RawTransactions
from bench.rounds import Measure, Ratio
from bench.stack import Stack
from bench.workers import SideSpec

BATCHES = (16, 128)
OURS = "tidelog"
ONE, TWO, OVERLAPPED = "bare, one id", "bare, two ids in turn", "bare, two ids overlapped"


def measures(stack: Stack, _partitions: Sequence[int]) -> list[Measure]:
    """One measure per batch size, on one partition."""
    return [_measure(stack, batch) for batch in BATCHES]


def _measure(stack: Stack, batch: int) -> Measure:
    return Measure(
        title=f"R4 group commit in batches of {batch} (1 partition)",
        partitions=1,
        sides=[
            _ours(stack, batch),
            _raw(stack, TWO, batch, 2),
            _overlapped(stack, batch),
            _raw(stack, ONE, batch, 1),
        ],
        ratios=[Ratio(name="R4", ours=OURS, peers=(TWO, OVERLAPPED), floor=0.8, goal=0.95)],
        note=f"{2 * batch} closed-loop clients and at most {batch} commands per transaction, so "
        "that the next batch is full when one has committed.",
    )


def _ours(stack: Stack, batch: int) -> SideSpec:
    spec = HostSpec(stack=stack, prefix=f"r4n{batch}.", partitions=1, batch_commands_max=batch)
    return SideSpec(label=OURS, make=ClientsSide, arguments=(spec, 2 * batch))


def _raw(stack: Stack, label: str, batch: int, ids: int) -> SideSpec:
    topic = f"r4n{batch}.ids{ids}"
    return SideSpec(label=label, make=RawTransactions, arguments=(stack, topic, batch, ids))


def _overlapped(stack: Stack, batch: int) -> SideSpec:
    arguments = (stack, f"r4n{batch}.overlapped", batch)
    return SideSpec(label=OVERLAPPED, make=OverlappedTransactions, arguments=arguments)
