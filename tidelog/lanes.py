"""Lanes: records are read, judged and decoded once for all the read models that are near.

The live lane is a member of the consumer group; what the group gives to it is what this process
tries, in every lane. A feeder that is far behind the others, or that takes nothing while others
do, gets a lane of its own, with a consumer of its own over the same partitions, until it is near.

Moving a feeder needs no handshake. A feed skips what it has and asks for what it misses, so events
may come to it from two lanes at once; and the compare-and-set of its store makes even two
processes that feed the same partition safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tidelog.engine.log_stream import LogStream, Run
from tidelog.engine.ports import MessageCodec
from tidelog.engine.projection_store import TopicInfo
from tidelog.engine.reading import Partition
from tidelog.errors import TidelogError, TopicRecreated
from tidelog.feeder import Assigned, Feeder, Released, Resume
from tidelog.kafka.reader import BatchReader, Membership, Polled
from tidelog.logging import get_logger
from tidelog.message import Context
from tidelog.projection_metrics import count_lane_error

POLL_S = 0.2
ROOM_WAIT_S = 0.05
# A feeder that is this many events behind the first one of its lane leaves it; one that is nearer
# than the second figure to the live lane joins it.
LANE_GAP_EVENTS = 20_000
JOIN_GAP_EVENTS = 10_000
# How long a lane waits for a feeder that takes nothing while another one would.
FULL_S = 2.0
PLACE_S = 0.5
# How long a lane does not poll because nobody takes events; then it polls without taking records,
# so that the group goes on.
HOLD_S = 1.0
TOPIC_CHECK_S = 15.0
MISSING_TOPIC_CHECK_S = 1.0
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 5.0

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class LaneOptions:
    """Where lanes read and how much they take at once."""

    bootstrap_servers: str
    topic_prefix: str
    group: str
    instance: str
    session_timeout_ms: int
    batch_events_max: int


class Lane:
    """One reader and whom it reads for. One thread calls `turn`; `feeders` may be read by any."""

    def __init__(
        self,
        reader: BatchReader,
        contexts: Iterable[Context],
        codec: MessageCodec,
        batch_events_max: int,
    ) -> None:
        self.feeders: tuple[Feeder, ...] = ()
        self.stream = LogStream(contexts, codec, reader)
        self._reader = reader
        self._batch_events_max = batch_events_max
        self._held_since: float | None = None
        self._holding = False

    def turn(self, owned: frozenset[Partition]) -> Polled:
        """Heed what the feeders want, read once, and hand over what came."""
        self._heed_wants(owned)
        if not self._has_room():
            return self._hold()
        self._held_since = None
        if self._holding:
            self._holding = False
            self._reader.go_on(self.stream.progress.keys() - self.stream.stopped.keys())
        polled = self._reader.poll(self._batch_events_max, POLL_S)
        self._hand_over(polled)
        for partition, error in polled.troubles.items():
            if not error.retry and partition in self.stream.progress:
                self.stream.stop(partition, error)
                tell_stopped(partition, error)
        return polled

    def leave(self, partitions: Iterable[Partition]) -> None:
        """Read these partitions no more."""
        gone = list(partitions)
        self.stream.leave(gone)
        self._reader.leave(gone)

    def jump(self) -> None:
        """Pass over what every feeder of this lane has already, and what none of them reads."""
        for partition, at in list(self.stream.progress.items()):
            found = [
                progress
                for each in self.feeders
                if each.accepting and (progress := each.progress(partition)) is not None
            ]
            if not found:
                self.leave([partition])
            elif min(found).sequence > at.sequence:
                self.stream.move(partition, min(found))

    def close(self) -> None:
        """Leave the group, if it is a member."""
        self._reader.close()

    def _heed_wants(self, owned: frozenset[Partition]) -> None:
        for feeder in self.feeders:
            for partition, progress in feeder.wants.take().items():
                if partition in owned:
                    try:
                        self.stream.want(partition, progress)
                    except Exception:
                        feeder.wants.add(partition, progress)
                        raise

    def _has_room(self) -> bool:
        """Wait a little until every feeder that takes events has room."""
        return all(each.queue.wait_for_room(ROOM_WAIT_S) for each in self.feeders if each.accepting)

    def _hold(self) -> Polled:
        """Take no record, but serve the group once it has been long."""
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
        if now - self._held_since < HOLD_S:
            return Polled(batch={}, troubles={})
        self._reader.hold()
        self._holding = True
        polled = self._reader.poll(1, 0)
        self._hand_over(polled)
        return polled

    def _hand_over(self, polled: Polled) -> None:
        if not polled.batch:
            return
        taken = self.stream.take(polled.batch)
        for feeder in self.feeders:
            if feeder.accepting:
                feeder.queue.put(_runs_for(feeder, taken.runs))
        for hole in taken.holes:
            log.warning("lane.hole", hole=str(hole))
        for partition, error in taken.stopped.items():
            tell_stopped(partition, error)


def _runs_for(feeder: Feeder, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.partition.context in feeder.contexts]


def tell_stopped(partition: Partition, error: TidelogError) -> None:
    """Say that nobody reads on in this partition."""
    count_lane_error(error)
    log.error("lane.partition_stopped", partition=str(partition), reason=str(error))


class CatchUp:
    """A lane of one feeder that is far from the others. `run` is its thread's target."""

    def __init__(
        self,
        feeder: Feeder,
        contexts: Iterable[Context],
        codec: MessageCodec,
        options: LaneOptions,
        owned: Callable[[], frozenset[Partition]],
    ) -> None:
        self.feeder = feeder
        self.done = False
        self._lane: Lane | None = None
        self._contexts = contexts
        self._codec = codec
        self._options = options
        self._owned = owned
        self._stopping = threading.Event()

    def problems(self) -> list[str]:
        """Partitions that this lane cannot read."""
        lane = self._lane
        return [] if lane is None else [str(each) for each in lane.stream.stopped.copy().values()]

    def stop(self) -> None:
        """Hand over no more; `done` tells when."""
        self._stopping.set()

    def run(self) -> None:
        """Read for the feeder until stopped."""
        log.info("lane.begins", table=self.feeder.name)
        pause = Pause(self._stopping)
        try:
            while not self._stopping.is_set() and not self.feeder.gone:
                try:
                    self._turn()
                    pause.reset()
                except Exception as error:  # it may pass: retry, and show it
                    pause.after(error)
        finally:
            if self._lane is not None:
                self._lane.close()
            self.done = True
            log.info("lane.ends", table=self.feeder.name)

    def _turn(self) -> None:
        lane, owned = self._started(), self._owned()
        gone = lane.stream.progress.keys() - owned
        if gone:
            lane.leave(gone)
        lane.turn(owned)

    def _started(self) -> Lane:
        if self._lane is None:
            options = self._options
            reader = BatchReader(
                bootstrap_servers=options.bootstrap_servers,
                client_id=f"projectors-{options.instance}-{self.feeder.name}",
                topic_prefix=options.topic_prefix,
            )
            self._lane = Lane(reader, self._contexts, self._codec, options.batch_events_max)
            self._lane.feeders = (self.feeder,)
            self.feeder.queue.put([Resume()])
        return self._lane


class Pause:
    """Waits after an error, longer each time, up to a bound; a stop ends the wait."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._pause_s = PAUSE_S_MIN

    def after(self, error: Exception) -> None:
        """Say what went wrong and wait."""
        count_lane_error(error)
        expected = isinstance(error, TidelogError)
        log.warning(
            "lane.waits",
            reason=str(error),
            pause_s=round(self._pause_s, 2),
            exc_info=None if expected else error,
        )
        self._stopping.wait(self._pause_s)
        self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)

    def reset(self) -> None:
        """All is well."""
        self._pause_s = PAUSE_S_MIN


class LiveLane:
    """The lane of all feeders that are near the end, and the lanes of those that are not.

    `run` is its thread's target. It alone decides who is in which lane; others `add` and `remove`.
    `topics` looks up the event topics that exist; `prepare` is called before the first read.
    """

    def __init__(
        self,
        contexts: Sequence[Context],
        codec: MessageCodec,
        options: LaneOptions,
        *,
        prepare: Callable[[], None],
        topics: Callable[[], Mapping[str, TopicInfo]],
    ) -> None:
        self.owned: frozenset[Partition] = frozenset()
        self._contexts = contexts
        self._codec = codec
        self._options = options
        self._prepare = prepare
        self._look_up_topics = topics
        self._topics: dict[str, TopicInfo] = {}
        self._lane: Lane | None = None
        self._reader: BatchReader | None = None
        self._catching_up: dict[Feeder, CatchUp] = {}
        self._wanted_feeders: tuple[Feeder, ...] = ()
        self._full_since: dict[Feeder, float] = {}
        self._stopping = threading.Event()
        self._place_at = self._check_at = 0.0
        self._trouble: str | None = "starting"

    def feed(self, feeders: Iterable[Feeder]) -> None:
        """From now on these, and no others."""
        self._wanted_feeders = tuple(feeders)

    def apart(self) -> list[str]:
        """The tables that are fed in a lane of their own."""
        return sorted(each.name for each in tuple(self._catching_up))

    def problems(self) -> list[str]:
        """What is wrong with the log, for all who read it."""
        found = [self._trouble] if self._trouble else []
        lane = self._lane
        if lane is not None:
            red = [*lane.stream.stopped.copy().values(), *lane.stream.forks.copy().values()]
            found += [str(error) for error in red]
        for each in tuple(self._catching_up.values()):
            found += [text for text in each.problems() if text not in found]
        return found

    def stop(self) -> None:
        """Leave the group after this turn."""
        self._stopping.set()

    def run(self) -> None:
        """Read until stopped."""
        pause = Pause(self._stopping)
        while not self._stopping.is_set():
            try:
                self._turn()
                pause.reset()
            except Exception as error:  # it may pass: retry, and show it
                self._trouble = str(error)
                pause.after(error)
        for each in self._catching_up.values():
            each.stop()
        if self._lane is not None:
            self._lane.close()

    # --- one turn ---------------------------------------------------------------------------

    def _turn(self) -> None:
        lane, reader = self._started()
        now = time.monotonic()
        if now >= self._check_at:
            self._check_topics(reader)
        self._meet_feeders(lane)
        self._let_go_of_full(lane)
        if now >= self._place_at:
            self._place_at = now + PLACE_S
            self._place(lane)
        polled = lane.turn(self.owned)
        if any(error.retry for error in polled.troubles.values()):
            self._check_at = 0.0  # the topic may be gone: look at once
        if reader.joined:
            self._trouble = None

    def _started(self) -> tuple[Lane, BatchReader]:
        if self._lane is None or self._reader is None:
            self._prepare()
            options = self._options
            self._reader = BatchReader(
                bootstrap_servers=options.bootstrap_servers,
                client_id=f"projectors-{options.instance}",
                topic_prefix=options.topic_prefix,
                membership=Membership(
                    group=options.group,
                    session_timeout_ms=options.session_timeout_ms,
                    assigned=self._assigned,
                    released=self._released,
                ),
            )
            self._lane = Lane(self._reader, self._contexts, self._codec, options.batch_events_max)
            self._trouble = "joining the group"
        return self._lane, self._reader

    def _check_topics(self, reader: BatchReader) -> None:
        """Subscribe to topics that are new; one that was made again is another log."""
        found = self._look_up_topics()
        missing = len(found) < len(self._contexts)
        self._check_at = time.monotonic() + (MISSING_TOPIC_CHECK_S if missing else TOPIC_CHECK_S)
        for context, topic in found.items():
            known = self._topics.get(context)
            if known is not None and known.id != topic.id:
                self._refuse(context)
        if found.keys() - self._topics.keys():
            reader.subscribe(found)
        self._topics.update(found)
        if not found:
            self._trouble = "no event topic exists yet; the command service makes them"

    def _refuse(self, context: str) -> None:
        for each in self._all_feeders():
            if context in each.contexts:
                each.refuse(
                    TopicRecreated(
                        f"The events topic of {context} was deleted and made again while "
                        f"{each.name} read it. Restore the topic, or rebuild the projection."
                    )
                )

    # --- the group --------------------------------------------------------------------------

    def _assigned(self, partitions: Sequence[Partition]) -> None:
        self.owned |= frozenset(partitions)
        for each in self._all_feeders():
            each.queue.put([Assigned(partitions)])

    def _released(self, partitions: Sequence[Partition]) -> None:
        self.owned -= frozenset(partitions)
        if self._lane is not None:
            self._lane.stream.leave(partitions)
        for each in self._all_feeders():
            each.queue.put([Released(partitions)])

    def _all_feeders(self) -> list[Feeder]:
        live = () if self._lane is None else self._lane.feeders
        return [*live, *self._catching_up]

    # --- who is in which lane ---------------------------------------------------------------

    def _meet_feeders(self, lane: Lane) -> None:
        """Take in new feeders, and let go of those that are fed no more."""
        wanted = self._wanted_feeders
        new = [each for each in wanted if each not in lane.feeders]
        new = [each for each in new if each not in self._catching_up]
        if new or len(lane.feeders) + len(self._catching_up) != len(wanted):
            for each in new:
                each.queue.put([Assigned(sorted(self.owned))])
            lane.feeders = tuple(each for each in (*lane.feeders, *new) if each in wanted)
            for feeder, own in self._catching_up.items():
                if feeder not in wanted:
                    own.stop()

    def _let_go_of_full(self, lane: Lane) -> None:
        """A feeder that takes nothing, while another one would, gets a lane of its own."""
        accepting = [each for each in lane.feeders if each.accepting]
        full = [each for each in accepting if each.queue.full]
        now = time.monotonic()
        if len(full) == len(accepting):
            full = []
        self._full_since = {each: self._full_since.get(each, now) for each in full}
        for each, since in self._full_since.items():
            if now - since > FULL_S:
                self._give_own_lane(each, lane)

    def _place(self, lane: Lane) -> None:
        """Part those who are far from one another; bring together those who are near."""
        for each in stragglers(lane.feeders):
            self._give_own_lane(each, lane)
        lane.jump()
        for each in lane.feeders:
            each.measure_stopped(lane.stream.stopped)
        for feeder, own in list(self._catching_up.items()):
            if own.done:
                del self._catching_up[feeder]
                if feeder in self._wanted_feeders:
                    lane.feeders = (*lane.feeders, feeder)
                    feeder.queue.put([Resume()])
            elif self._is_near(feeder, lane):
                own.stop()

    def _give_own_lane(self, feeder: Feeder, lane: Lane) -> None:
        lane.feeders = tuple(each for each in lane.feeders if each is not feeder)
        own = CatchUp(feeder, self._contexts, self._codec, self._options, lambda: self.owned)
        self._catching_up[feeder] = own
        threading.Thread(target=own.run, name=f"lane-{feeder.name}", daemon=True).start()

    def _is_near(self, feeder: Feeder, lane: Lane) -> bool:
        if feeder.queue.full or not feeder.accepting:
            return False
        front = {at: progress.sequence for at, progress in lane.stream.progress.items()}
        return not _is_behind(feeder.positions(), front, JOIN_GAP_EVENTS)


def stragglers(feeders: Sequence[Feeder]) -> list[Feeder]:
    """The feeders that are far behind the first one of them in any partition."""
    positions = {each: each.positions() for each in feeders if each.accepting}
    front: dict[Partition, int] = {}
    for own in positions.values():
        for at, sequence in own.items():
            front[at] = max(front.get(at, 0), sequence)
    return [each for each, own in positions.items() if _is_behind(own, front, LANE_GAP_EVENTS)]


def _is_behind(own: Mapping[Partition, int], front: Mapping[Partition, int], gap: int) -> bool:
    return any(front.get(at, 0) - sequence > gap for at, sequence in own.items())
