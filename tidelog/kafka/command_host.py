"""The command side of one process: the partitions that it owns, and the door to them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog
from confluent_kafka.admin import AdminClient

from tidelog.aggregate import Aggregate
from tidelog.engine.batch import Request
from tidelog.engine.command import Envelope, Outcome
from tidelog.engine.ports import Limits, MessageCodec, StateStore, StoredRecord, Tools
from tidelog.engine.writer import PartitionWriter
from tidelog.errors import ConfigurationError, NotOwner, TopicRecreated, Unknown
from tidelog.ids import utc_now, uuid7
from tidelog.kafka.command_inbox import CommandInbox, OutcomeStore
from tidelog.kafka.command_sender import CommandSender
from tidelog.kafka.lease import Lease
from tidelog.kafka.membership import GroupMembership, MembershipEvents, Place
from tidelog.kafka.owner import PartitionOwner, not_owner_any_more
from tidelog.kafka.owners import OwnerDirectory, client_id_of, described_owners
from tidelog.kafka.partition_log import PartitionLog
from tidelog.kafka.topics import (
    COMMANDS_CONFIG,
    EVENTS_CONFIG,
    admin_client,
    ensure_topics,
    topic_ids,
)
from tidelog.partitioner import partition_of
from tidelog.settings import Settings
from tidelog.wire import CommandMetadata, command_headers, commands_topic, events_topic

DRAIN_S = 5.0
RELEASE_S = 12.0
ASIDE_THREADS = 2
BEGIN_RETRY_S = 0.5
NO_ADDRESS = "127.0.0.1:0"
"""Of a host that no other instance can reach."""

NOT_CONFIRMED = "the group has not confirmed this process lately"

log = structlog.get_logger(__name__)


class ClosableStore(StateStore, Protocol):
    """A state store that holds files."""

    def close(self) -> None:
        """Release them."""
        ...


class OpenStore(Protocol):
    """Opens the checkpoint of one partition of a topic."""

    def __call__(
        self, aggregate: Aggregate[Any, Any, Any], partition: int, topic_id: str
    ) -> ClosableStore:
        """The store; an unusable one is thrown away by the store itself."""
        ...


@dataclass(frozen=True, kw_only=True)
class HostParts:
    """What a host is wired with."""

    aggregates: Sequence[Aggregate[Any, Any, Any]]
    codec: MessageCodec
    open_store: OpenStore
    outcomes: OutcomeStore


class CommandHost:
    """Owns what the group assigns to this process, and is the CommandDoor to it."""

    def __init__(self, settings: Settings, parts: HostParts) -> None:
        self._settings = settings
        self._parts = parts
        self._aggregates = {aggregate.context.name: aggregate for aggregate in parts.aggregates}
        self._limits = limits_of(settings)
        self._tools = Tools(codec=parts.codec, new_id=uuid7, now=utc_now)
        self._lease = Lease(settings.session_timeout_ms)
        self._owners: dict[tuple[str, int], PartitionOwner] = {}
        self._inboxes: dict[tuple[str, int], CommandInbox] = {}
        self._refused: dict[tuple[str, int], Exception] = {}
        self._contexts = {
            commands_topic(name, settings.topic_prefix): name for name in self._aggregates
        }
        self._admin = admin_client(settings.kafka_bootstrap_servers)
        self._topic_ids: dict[str, str] = {}
        self._draining = False
        self._aside = ThreadPoolExecutor(ASIDE_THREADS, thread_name_prefix="aside")

    async def start(self, address: str = NO_ADDRESS) -> None:
        """Make the topics, join the group; takeovers follow when partitions are assigned.

        Other instances find the owner of a partition at `address`.
        """
        self._loop = asyncio.get_running_loop()
        settings = self._settings
        self._topic_ids = await asyncio.to_thread(
            prepared_topics, self._admin, settings, [*self._aggregates]
        )
        self._sender = CommandSender(settings.kafka_bootstrap_servers, self._loop)
        self._membership = GroupMembership(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            group=group_of(settings),
            client_id=client_id_of(address),
            topics=sorted(self._contexts),
            session_timeout_ms=settings.session_timeout_ms,
            lease=self._lease,
            events=MembershipEvents(
                assigned=_on_loop(self._loop, self._assigned),
                released=_on_loop_and_wait(self._loop, self._released),
                lost=_on_loop_and_wait(self._loop, self._lost),
                records=_on_loop(self._loop, self._received),
            ),
        )
        self._membership.start()

    async def stop(self) -> None:
        """Drain, commit, leave the group."""
        self._draining = True
        await asyncio.to_thread(self._membership.stop, RELEASE_S + DRAIN_S)
        await self._released(self._places())
        await asyncio.to_thread(self._sender.close, DRAIN_S)
        self._aside.shutdown(wait=False)

    def problems(self) -> list[str]:
        """Why this process is not ready to take every command of its partitions; [] if it is."""
        return [*self.faults(), *self.waits()]

    def faults(self) -> list[str]:
        """What does not pass by itself."""
        if not self._membership.alive:
            return ["the thread of the group membership has ended: restart the process"]
        found = [str(error) for error in self._refused.values()]
        return found + [
            f"{context}:{partition}: {owner.writer.broken}"
            for (context, partition), owner in self._owners.items()
            if owner.writer.broken is not None
        ]

    def waits(self) -> list[str]:
        """What comes with every move of a partition, and passes."""
        if not self._inboxes:
            return ["the group has not assigned any partition yet"]
        found = [
            f"{context}:{partition}: {owner.writer.phase.value}"
            for (context, partition), owner in self._owners.items()
            if not owner.writer.serving and owner.writer.broken is None
        ]
        return found if self._lease.holds() else [*found, NOT_CONFIRMED]

    @property
    def owners(self) -> Mapping[tuple[str, int], PartitionOwner]:
        """The owned partitions by (context, partition)."""
        return self._owners

    @property
    def inboxes(self) -> Mapping[tuple[str, int], CommandInbox]:
        """The command inboxes by (context, partition)."""
        return self._inboxes

    def lease_holds(self) -> bool:
        """Whether the group has confirmed this process lately."""
        return self._lease.holds()

    def partition_of(self, context: str, key: str) -> int:
        """The partition of the key; Unknown if the context is not hosted here."""
        if context not in self._aggregates:
            raise Unknown(f"There is no context {context} here.")
        return partition_of(key, self._settings.partitions)

    def place_of(self, context: str, key: str) -> Place:
        """The topic and partition by which the group assigns the key; Unknown as above."""
        number = self.partition_of(context, key)
        return commands_topic(context, self._settings.topic_prefix), number

    def owns(self, context: str, key: str) -> bool:
        """Whether the key's partition is owned here, served or still being taken over."""
        return (context, self.partition_of(context, key)) in self._owners

    def submit(self, context: str, envelope: Envelope) -> asyncio.Future[Outcome]:
        """Hand a command in; cancelling the future abandons a command that is not yet decided."""
        if self._draining:
            raise NotOwner("This instance is stopping. Send it again, same key.")
        place = (context, self.partition_of(context, envelope.key))
        future: asyncio.Future[Outcome] = self._loop.create_future()
        request = Request(
            envelope=envelope, reply=partial(_reply, future), is_abandoned=future.cancelled
        )
        self._submit_to(place, request)
        return future

    def enqueue(self, context: str, envelope: Envelope) -> asyncio.Future[None]:
        """Append the command to `<context>.commands`; done once it is durable there."""
        name = self._aggregates[context].context.full_name(type(envelope.command))
        metadata = CommandMetadata(
            command_id=envelope.command_id,
            type=name,
            subject=envelope.key,
            sent_at=utc_now(),
            correlation_id=envelope.correlation_id,
            causation_id=envelope.command_id,
            command_hash=envelope.command_hash,
            traceparent=envelope.traceparent,
            expected_version=_header_of(envelope.expected_version),
        )
        return self._sender.send(
            commands_topic(context, self._settings.topic_prefix),
            self.partition_of(context, envelope.key),
            envelope.key.encode(),
            self._parts.codec.encode(envelope.command),
            command_headers(metadata, f"/{context}"),
        )

    async def _assigned(self, places: Sequence[Place]) -> None:
        for topic, partition in places:
            key = (self._contexts[topic], partition)
            self._inboxes[key] = self._inbox(key, topic)
            self._begin_or_retry(key)

    def _inbox(self, key: tuple[str, int], commands: str) -> CommandInbox:
        """It is there before the owner is, and keeps what comes meanwhile."""
        context, partition = key
        place = (commands, partition)
        return CommandInbox(
            context=self._aggregates[context].context,
            partition=partition,
            codec=self._parts.codec,
            submit=partial(self._submit_to, key),
            outcomes=self._parts.outcomes,
            processed=partial(self._membership.processed, place),
            flow=partial(self._membership.flow, place),
        )

    def _submit_to(self, key: tuple[str, int], request: Request) -> None:
        owner = self._owners.get(key)
        if owner is None:
            raise NotOwner("No partition for this key is owned here yet. Try again.")
        owner.submit(request)

    def _begin_or_retry(self, key: tuple[str, int]) -> None:
        """Open the partition's owner; one that cannot be opened yet stops no other, and is retried.

        Its files may still be held for a moment by the owner before, in this very process.
        """
        if key not in self._inboxes or key in self._owners:
            return
        try:
            self._begin(*key)
            self._refused.pop(key, None)
        except Exception as error:
            self._refused[key] = error
            log.error("host.refused", partition=f"{key[0]}-{key[1]}", error=str(error))
            if not isinstance(error, TopicRecreated | ConfigurationError):
                self._loop.call_later(BEGIN_RETRY_S, self._begin_or_retry, key)

    def _begin(self, context: str, partition: int) -> None:
        aggregate = self._aggregates[context]
        topic = events_topic(context, self._settings.topic_prefix)
        topic_id = self._topic_ids[topic]
        store = self._parts.open_store(aggregate, partition, topic_id)
        writer = PartitionWriter(
            context=context,
            partition=partition,
            aggregate=aggregate,
            store=store,
            tools=self._tools,
            limits=self._limits,
        )
        partition_log = PartitionLog(
            admin=self._admin,
            bootstrap_servers=self._settings.kafka_bootstrap_servers,
            topic=topic,
            partition=partition,
            topic_id=topic_id,
            transaction_timeout_ms=self._settings.transaction_timeout_ms,
        )
        owner = PartitionOwner(
            writer, partition_log, self._lease, self._loop, store.close, self._aside.submit
        )
        self._owners[(context, partition)] = owner
        owner.start()

    async def _released(self, places: Sequence[Place]) -> None:
        owned = self._take(places)
        await asyncio.gather(*(owner.drain(DRAIN_S) for owner in owned))
        await asyncio.gather(*(owner.stop(not_owner_any_more()) for owner in owned))

    async def _lost(self, places: Sequence[Place]) -> None:
        error = NotOwner("The partition was lost to another instance. Send it again, same key.")
        await asyncio.gather(*(owner.stop(error) for owner in self._take(places)))

    async def _received(self, place: Place, records: Sequence[StoredRecord]) -> None:
        inbox = self._inboxes.get((self._contexts[place[0]], place[1]))
        if inbox is not None:
            inbox.receive(records)

    def _take(self, places: Sequence[Place]) -> list[PartitionOwner]:
        """Remove the owners of the places, so that nothing more is submitted to them."""
        owned = []
        for topic, partition in places:
            key = (self._contexts[topic], partition)
            self._refused.pop(key, None)
            inbox = self._inboxes.pop(key, None)
            if inbox is not None:
                inbox.stop()
            owner = self._owners.pop(key, None)
            if owner is not None:
                owned.append(owner)
        return owned

    def _places(self) -> list[Place]:
        prefix = self._settings.topic_prefix
        return [(commands_topic(context, prefix), number) for context, number in self._inboxes]


def group_of(settings: Settings) -> str:
    """The consumer group whose members are the command services."""
    return f"{settings.topic_prefix}command-service"


def directory_of(settings: Settings) -> OwnerDirectory:
    """Where the group tells the owners of all partitions, those of other instances too."""
    admin = admin_client(settings.kafka_bootstrap_servers)
    return OwnerDirectory(partial(described_owners, admin, group_of(settings)))


def prepared_topics(
    admin: AdminClient, settings: Settings, contexts: Sequence[str]
) -> dict[str, str]:
    """The ids of the topics of these contexts, which are made where they are not there."""
    prefix = settings.topic_prefix
    topics: dict[str, Mapping[str, str]] = {}
    for name in contexts:
        topics[events_topic(name, prefix)] = EVENTS_CONFIG
        topics[commands_topic(name, prefix)] = COMMANDS_CONFIG
    ensure_topics(admin, topics, settings.partitions, settings.replication_factor)
    return topic_ids(admin, topics)


def limits_of(settings: Settings) -> Limits:
    """The engine's bounds, as the settings give them."""
    return Limits(
        queue_commands_max=settings.command_queue_max,
        batch_commands_max=settings.batch_commands_max,
        batch_bytes_max=settings.batch_bytes_max,
        record_bytes_max=settings.record_bytes_max,
        cached_entries_max=settings.cached_states_max,
        cached_seen_max=settings.cached_states_max,
        idempotency_window_hours=settings.idempotency_window_hours,
    )


def _on_loop(loop: asyncio.AbstractEventLoop, coroutine: Any) -> Any:
    def call(*args: Any) -> None:
        future = asyncio.run_coroutine_threadsafe(coroutine(*args), loop)
        future.add_done_callback(_log_failure)

    return call


def _on_loop_and_wait(loop: asyncio.AbstractEventLoop, coroutine: Any) -> Any:
    def call(*args: Any) -> None:
        assert threading.current_thread() is not threading.main_thread()
        future = asyncio.run_coroutine_threadsafe(coroutine(*args), loop)
        try:
            future.result(RELEASE_S)
        except TimeoutError:
            log.error("host.release_timed_out", timeout_s=RELEASE_S)

    return call


def _reply(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


def _header_of(expected_version: int | None) -> str | None:
    if expected_version is None:
        return None
    return "*" if expected_version < 0 else f'"{expected_version}"'


def _log_failure(future: Any) -> None:
    error = future.exception()
    if error is not None:
        log.error("host.failed", error=str(error), exc_info=error)
