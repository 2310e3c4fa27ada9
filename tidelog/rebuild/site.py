"""Where the work is done: addresses that a worker process is sent, and what it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from tidelog.codec import Codec
from tidelog.definitions import AnyProjection, load_projections, projection_named
from tidelog.engine.projection_store import TopicInfo
from tidelog.engine.reading import Partition
from tidelog.kafka.ends import LogEnds
from tidelog.kafka.reader import read_topics
from tidelog.kafka.topics import admin_client
from tidelog.registry import RegistryClient


@dataclass(frozen=True, kw_only=True)
class Site:
    """The addresses of a system, and the list of its projections as `module:NAME`."""

    bootstrap_servers: str
    registry_url: str
    dsn: str
    schema: str
    topic_prefix: str
    projections: str

    def projection(self, name: str) -> AnyProjection:
        """The projection of this name. Unknown where there is none."""
        return projection_named(load_projections(self.projections), name)

    @contextmanager
    def codec(self, projection: AnyProjection) -> Iterator[Codec]:
        """The codec of the projection's contexts."""
        with closing(RegistryClient(self.registry_url)) as registry:
            yield Codec(list(projection.contexts), registry, self.topic_prefix)

    def topics(self, projection: AnyProjection) -> dict[str, TopicInfo]:
        """Id and partition count of each context's events. Unavailable where one is missing."""
        admin = admin_client(self.bootstrap_servers)
        return read_topics(admin, projection.contexts, self.topic_prefix)

    def ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The last sequence of each partition, as it is now."""
        ends = LogEnds(bootstrap_servers=self.bootstrap_servers, topic_prefix=self.topic_prefix)
        try:
            return ends.sequences(partitions)
        finally:
            ends.close()


def partitions_of(topics: dict[str, TopicInfo]) -> list[Partition]:
    """Every partition of these topics."""
    return [
        Partition(context, number)
        for context, topic in sorted(topics.items())
        for number in range(topic.partitions)
    ]


class Watch(Protocol):
    """Who is told how far the work is."""

    def phase(self, name: str, events: int | None) -> None:
        """A new phase begins; `events` are to be read in it, None where nobody knows."""
        ...

    def advance(self, events: int) -> None:
        """So many events more were read."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should know."""
        ...


class Quiet:
    """Tells nobody."""

    def phase(self, name: str, events: int | None) -> None:
        """Nothing."""

    def advance(self, events: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


Report = Callable[[int], bool]
"""Told of events that were read; answers whether to stop soon."""
