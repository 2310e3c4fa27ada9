"""One side made of several processes that run their rounds at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.sample import Sample
from bench.workers import SideSpec, Worker


class ParallelSide:
    """Every part in a worker of its own; together they have done what their rates add up to."""

    def __init__(self, parts: Sequence[SideSpec]) -> None:
        self._workers = [Worker(part) for part in parts]
        self._pool = ThreadPoolExecutor(len(parts))

    def run(self, seconds: float) -> Sample:
        """All at once."""
        samples = list(self._pool.map(lambda worker: worker.run(seconds), self._workers))
        rate = sum(sample.rate for sample in samples)
        operations = sum(sample.operations for sample in samples)
        return Sample(
            operations=operations,
            seconds=operations / rate,
            cpu_s=sum(sample.cpu_s for sample in samples),
            # Each has seen all of it.
            backend_cpu_s=max(sample.backend_cpu_s for sample in samples),
            extra={name: sum(each.extra[name] for each in samples) for name in samples[0].extra},
        )

    def close(self) -> None:
        """Stop them."""
        for worker in self._workers:
            worker.close()
        self._pool.shutdown()
