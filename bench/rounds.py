"""Interleaved rounds (A B A B …) and what they say: medians, spreads, and ratios pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from statistics import median

from bench.sample import Sample
from bench.workers import SideSpec, Worker


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Which side is divided by which, and what is expected of it."""

    name: str
    ours: str
    peers: tuple[str, ...]
    """The one with the best median is the divisor."""
    floor: float | None = None
    """None where a ratio is shown for information."""
    goal: float | None = None
    figure: str = ""
    """What is divided: the name of a further figure, of which less is better; '' is the rate."""
    by_slowest: bool = False
    """Whether the peer with the worst median is the divisor: the bottleneck of several."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Sides that run in turn in one series of rounds, and the ratios between them."""

    title: str
    sides: Sequence[SideSpec]
    ratios: Sequence[Ratio]
    partitions: int
    note: str = ""
    """What the reader must know to read the figures."""
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """What all sides share, such as a log: made before they start, removed after they stopped."""


@dataclass(frozen=True)
class Spread:
    """A series of figures."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class SideResult:
    """One side over all rounds."""

    label: str
    rate: Spread
    cpu_us: float
    backend_cpu_us: float
    extra: dict[str, float]
    rates: list[float]


@dataclass(frozen=True, kw_only=True)
class RatioResult:
    """One ratio over all rounds; each round's two sides ran one after the other."""

    ratio: Ratio
    peer: str
    spread: Spread


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a measure found."""

    title: str
    partitions: int
    note: str
    sides: list[SideResult]
    ratios: list[RatioResult]


def run(measure: Measure, rounds: int, seconds: float, tell: Callable[[str], None]) -> Result:
    """Warm up every side, then run all of them in turn, so many rounds."""
    samples: dict[str, list[Sample]] = {side.label: [] for side in measure.sides}
    with ExitStack() as stack:
        tell(f"{measure.title}: preparing")
        stack.enter_context(measure.around())
        workers = []
        for side in measure.sides:
            tell(f"{measure.title}: starting {side.label}")
            worker = Worker(side)
            stack.callback(worker.close)
            workers.append(worker)
        for number in _numbered(rounds):
            for worker in workers:
                sample = worker.run(seconds)
                tell(f"{measure.title}: {number} {worker.label}: {sample.rate:,.0f}/s")
                if number != WARM_UP:
                    samples[worker.label].append(sample)
    return _result(measure, samples)


WARM_UP = "warm-up"
WARM_UPS = 2
"""A side learns its own rate in the first warm-up, so the second is as long as a round."""


def _numbered(rounds: int) -> Iterator[str]:
    yield from (WARM_UP for _ in range(WARM_UPS))
    yield from (f"round {number} of {rounds}" for number in range(1, rounds + 1))


def _result(measure: Measure, samples: dict[str, list[Sample]]) -> Result:
    return Result(
        title=measure.title,
        partitions=measure.partitions,
        note=measure.note,
        sides=[_side_result(label, found) for label, found in samples.items()],
        ratios=[_ratio_result(ratio, samples) for ratio in measure.ratios],
    )


def _side_result(label: str, samples: Sequence[Sample]) -> SideResult:
    rates = [sample.rate for sample in samples]
    return SideResult(
        label=label,
        rate=_spread(rates),
        cpu_us=median(sample.cpu_s / sample.operations * 1e6 for sample in samples),
        backend_cpu_us=median(sample.backend_cpu_s / sample.operations * 1e6 for sample in samples),
        extra={name: median(sample.extra[name] for sample in samples) for name in samples[0].extra},
        rates=rates,
    )


def _ratio_result(ratio: Ratio, samples: Mapping[str, Sequence[Sample]]) -> RatioResult:
    def middle(label: str) -> float:
        return median(_figure(ratio, sample) for sample in samples[label])

    wants_most = (ratio.figure == "") != ratio.by_slowest
    peer = max(ratio.peers, key=middle) if wants_most else min(ratio.peers, key=middle)
    pairs = zip(samples[ratio.ours], samples[peer], strict=True)
    found = [_figure(ratio, mine) / _figure(ratio, other) for mine, other in pairs]
    return RatioResult(ratio=ratio, peer=peer, spread=_spread(found))


def _figure(ratio: Ratio, sample: Sample) -> float:
    return sample.extra[ratio.figure] if ratio.figure else sample.rate


def _spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))
