"""People's decisions about parked events, read from `operations.events` to its end.

The fold of a read model is of the log and of these. They are few; all of them are kept in memory,
by projection and version. `refresh` reads on, so that whoever folds live learns of new ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka.admin import AdminClient

from tidelog.engine.folding import Decision, Decisions
from tidelog.engine.heeding import Made
from tidelog.engine.judge import Progress
from tidelog.engine.ports import MessageCodec
from tidelog.engine.reading import EventReader, Fact, Partition
from tidelog.errors import DefinitionError, LogHole, TidelogError, TopicRecreated, Unavailable
from tidelog.kafka.spans import POLL_S, SILENCE_S_MAX, Follower
from tidelog.kafka.topics import admin_client, partition_counts, topic_ids
from tidelog.logging import get_logger
from tidelog.message import Context
from tidelog.parking import read_decision
from tidelog.position import parse_position
from tidelog.wire import events_topic

CONTEXT = "operations"
READ_TIMEOUT_S = 5.0
TOPIC_CHECK_S = 15.0

log = get_logger(__name__)


class Decided(NamedTuple):
    """One decision, where it belongs: the projection, its version, and the event."""

    projection: str
    version: int
    partition: Partition
    sequence: int
    decision: Decision


class DecisionLog:
    """Every decision about events of projections, as far as it was read.

    One thread refreshes it; the mappings that it gives out may be read by any.
    `contexts` are all contexts whose events may be decided on, and `operations` itself; `codec`
    knows them all.
    """

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        topic_prefix: str,
        codec: MessageCodec,
        contexts: Sequence[Context],
    ) -> None:
        own = [context for context in contexts if context.name == CONTEXT]
        if not own:
            raise DefinitionError(f"decisions need the context {CONTEXT} among the contexts")
        self._contexts = contexts
        self._events = EventReader(own, codec)
        self._topic = events_topic(CONTEXT, topic_prefix)
        self._admin: AdminClient = admin_client(bootstrap_servers)
        self._follower = Follower(
            bootstrap_servers=bootstrap_servers,
            topic_prefix=topic_prefix,
            client_id="tidelog-decisions",
        )
        self._following = False
        self._untold: list[Decided] = []
        self._check_at = 0.0
        self._read_once = threading.Event()
        self._topic_id = ""
        self._progress: dict[Partition, Progress] = {}
        self._known: dict[tuple[str, int], dict[tuple[Partition, int], Decision]] = {}
        self._made: dict[tuple[str, int], list[Made]] = {}

    def decisions_for(self, projection: str, version: int) -> Decisions:
        """What is decided about the events of this projection, and will be: the mapping lives."""
        return self._known.setdefault((projection, version), {})

    def made_for(self, projection: str, version: int) -> Sequence[Made]:
        """Every decision about this projection so far, also those that another one replaced."""
        return tuple(self._made.get((projection, version), ()))

    def refresh(self) -> list[Decided]:
        """Read on to the end of the log; the decisions that are new.

        Raises Unavailable where Kafka does not answer, LogHole where decisions are missing, and
        TopicRecreated where they were thrown away. What was read until then is kept.
        """
        if self._find_topic():
            try:
                self._read_on()
            except TidelogError:
                self._following = False
                raise
        self._read_once.set()
        told, self._untold = self._untold, []
        return told

    def wait_until_read(self) -> None:
        """Return once the log was read to its end; Unavailable while it was not.

        Whoever folds waits for this first: a fold without the decisions would park what is decided.
        """
        if not self._read_once.wait(READ_TIMEOUT_S):
            raise Unavailable(f"{self._topic} has not been read to its end yet")

    def close(self) -> None:
        """Release the handle."""
        self._follower.close()

    def _read_on(self) -> None:
        """Take in what has come; after a start, all there is."""
        if not self._following:
            offsets = {at: progress.offset + 1 for at, progress in self._progress.items()}
            self._follower.start(offsets)
            self._following = True
        deadline = time.monotonic() + SILENCE_S_MAX
        while True:
            ended = self._follower.ended
            batch = self._follower.read(0 if ended else POLL_S)
            for at, records in batch.items():
                self._take(at, records)
            if batch:
                deadline = time.monotonic() + SILENCE_S_MAX
            elif ended:
                return
            elif time.monotonic() > deadline:
                raise Unavailable(f"{self._topic} was not read in {SILENCE_S_MAX:g} s")

    def _find_topic(self) -> bool:
        """Whether there is a topic of decisions: before the first command service there is none."""
        if time.monotonic() < self._check_at:
            return True
        topic_id = topic_ids(self._admin, [self._topic]).get(self._topic)
        if topic_id is None:
            return False
        if self._topic_id not in ("", topic_id):
            raise TopicRecreated(
                f"{self._topic} was deleted and made again: decisions that rows were folded with "
                "are gone. Restore the topic."
            )
        if not self._topic_id:
            for number in range(partition_counts(self._admin, [self._topic])[self._topic]):
                self._progress[Partition(CONTEXT, number)] = Progress()
            self._topic_id = topic_id
        self._check_at = time.monotonic() + TOPIC_CHECK_S
        return True

    def _take(self, at: Partition, records: Sequence[Any]) -> None:
        reading = self._events.read({at: records}, self._progress)
        for parked in reading.parked:
            log.error("decisions.not_ours", offset=parked.record.offset, reason=parked.reason)
        found = [each for fact in reading.facts if (each := self._read(fact)) is not None]
        for each in found:
            name = (each.projection, each.version)
            known = self._known.setdefault(name, {})
            known[each.partition, each.sequence] = each.decision
            made = Made(each.partition, each.sequence, each.decision)
            self._made.setdefault(name, []).append(made)
        self._untold += found
        self._progress.update(reading.progress)
        if reading.holes:
            raise LogHole(f"{at}: decisions are missing after {reading.holes[0].progress}")

    def _read(self, fact: Fact) -> Decided | None:
        """The decision in the event; None where it is about something else, or fits no event."""
        event: Any = fact.event
        if event.kind != "projection":
            return None
        position = parse_position(event.position)
        partition = Partition(position.context, position.partition)
        try:
            decision = read_decision(self._contexts, event)
        except TidelogError as error:
            log.error("decisions.does_not_fit", target=event.target, reason=str(error))
            return None
        placed = decision._replace(number=fact.partition.number, sequence=fact.sequence)
        return Decided(event.projection, event.version, partition, position.sequence, placed)
