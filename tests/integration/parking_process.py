"""A projectors process over a projection that fails where a file says so, with its retrier.

`python -m tests.integration.parking_process`, configured by `TIDELOG_` settings and
`BROKEN_VALUES`, the file that names the values which `evolve` cannot take at present.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.operations import OPERATIONS
from tests.read_side import COUNTERS, Added, Cleared
from tidelog import Projection, Row
from tidelog.codec import Codec
from tidelog.definitions import AnyProjection
from tidelog.kafka.decisions import DecisionLog
from tidelog.logging import configure_logging
from tidelog.projector import Projectors
from tidelog.registry import MemoryRegistry
from tidelog.retrier import ParkingLoop
from tidelog.settings import Settings, load_settings

CONTEXTS = (COUNTERS, OPERATIONS)


class Ledger(Row):
    """What a counter has taken in, in order."""

    counter_id: str
    taken: tuple[int, ...]


class Total(Row):
    """A row that all counters feed: what it has taken in, in no order."""

    parity: str
    taken: tuple[int, ...]


def broken() -> set[int]:
    """The values that cannot be taken now."""
    return {int(each) for each in Path(os.environ["BROKEN_VALUES"]).read_text().split()}


def check(value: int) -> int:
    """The value, if it can be taken now."""
    if value in broken():
        raise ValueError(f"{value} cannot be taken")
    return value


def keep(row: Ledger | None, event: Added | Cleared) -> Ledger | None:
    """The ledger after the event."""
    if isinstance(event, Cleared):
        return None
    taken = row.taken if row else ()
    return Ledger(counter_id=event.counter_id, taken=(*taken, check(event.by)))


def gather(row: Total | None, event: Added) -> Total:
    """The total after the event; the order does not matter."""
    taken = row.taken if row else ()
    return Total(parity=str(event.by % 2), taken=tuple(sorted((*taken, check(event.by)))))


ledger = Projection(
    name="ledger", version=1, contexts=[COUNTERS], row=Ledger, key="counter_id", evolve=keep
)
total = Projection(
    name="total",
    version=1,
    contexts=[COUNTERS],
    row=Total,
    key="parity",
    evolve=gather,
    keys=lambda event: [str(event.by % 2)],
)
PROJECTIONS = (ledger, total)


def codec_of(prefix: str) -> Codec:
    """A codec whose schema ids are the same in every process."""
    codec = Codec(CONTEXTS, MemoryRegistry(), prefix)
    codec.prepare()
    return codec


def threads_of(
    settings: Settings, projections: Sequence[AnyProjection] = PROJECTIONS
) -> tuple[Projectors, ParkingLoop]:
    """The projectors and the retrier, not yet running."""
    codec = codec_of(settings.topic_prefix)
    decisions = DecisionLog(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        topic_prefix=settings.topic_prefix,
        codec=codec,
        contexts=CONTEXTS,
    )
    retrier = ParkingLoop(
        projections, contexts=CONTEXTS, codec=codec, settings=settings, decisions=decisions
    )
    projectors = Projectors(
        projections,
        settings,
        codec=codec,
        prepare=decisions.wait_until_read,
        decisions=decisions.decisions_for,
    )
    return projectors, retrier


def main() -> int:
    """Project and retry until SIGTERM."""
    settings = load_settings()
    configure_logging(settings.log_level, "parking", settings.instance)
    both = threads_of(settings)
    runs: list[Callable[[], None]] = [each.run for each in both]
    threads = [threading.Thread(target=run, daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    signal.sigwait({signal.SIGTERM})
    for each in both:
        each.stop()
    for thread in threads:
        thread.join(20)
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sys.exit(main())
