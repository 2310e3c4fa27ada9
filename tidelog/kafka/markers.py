"""Writes the transaction markers that Kafka has forgotten.

A broker that is killed right behind an acknowledged commit may come back, note the transaction as
complete, and never write its marker into the partition (docs/adr/0016). The last stable offset
then stands still for good, and the acknowledged events are read by nobody. What the coordinator
decided is known until its transactional id is initialised again, so it is asked for before that.

librdkafka has none of the three requests; kafka-python has them (KIP-664).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import kafka.errors
import structlog
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import TransactionState
from kafka.protocol.producer.transaction import WriteTxnMarkersRequest
from prometheus_client import Counter

from tidelog.errors import Unavailable
from tidelog.kafka.security import python_connection

REQUEST_TIMEOUT_MS = 10_000

_COMMITTED = frozenset({TransactionState.PREPARE_COMMIT, TransactionState.COMPLETE_COMMIT})
_ABORTED = frozenset({TransactionState.PREPARE_ABORT, TransactionState.COMPLETE_ABORT})

WRITTEN = Counter(
    "tidelog_markers_written",
    "Transaction markers that Kafka had forgotten and that were written after it.",
    ["topic", "decision"],
)

log = structlog.get_logger(__name__)


class Decided(NamedTuple):
    """What the coordinator decided about the last transaction of a producer."""

    producer_id: int
    committed: bool


class MarkerClient:
    """The transactions of one partition, as an administrator sees them. Blocking.

    Needs the right to describe transactional ids and topics, and Alter on the cluster. Raises
    Unavailable where the brokers do not answer; the same call may be made again.
    """

    def __init__(self, *, bootstrap_servers: str, topic: str, partition: int) -> None:
        self._place = TopicPartition(topic, partition)
        with _answers():
            self._client = KafkaAdminClient(
                **python_connection(),
                bootstrap_servers=bootstrap_servers.split(","),
                client_id=f"tidelog-markers-{topic}-{partition}",
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
            )

    def decided(self, transactional_id: str, known: Decided | None) -> Decided | None:
        """What was decided last for the id; None where nothing is, or the id was never used.

        `known` was told before an attempt to initialise the id whose outcome is not known. It holds
        where the coordinator has forgotten since, for then nothing has been begun after it.
        """
        with _answers():
            try:
                found = self._client.describe_transactions([transactional_id])[transactional_id]
            except kafka.errors.TransactionalIdNotFoundError:
                return None
        if found.state in _COMMITTED:
            return Decided(found.producer_id, True)
        if found.state in _ABORTED:
            return Decided(found.producer_id, False)
        return known if found.state is TransactionState.EMPTY else None

    def settle(self, decided: Decided) -> bool:
        """Write the marker if it is missing; whether it was.

        Only right when the transactional id has been initialised since `decided` was asked for:
        then its producer can have begun nothing since that is still open.
        """
        with _answers():
            state = self._client.describe_producers([self._place])[self._place]
            for producer in state.active_producers:
                if producer.producer_id == decided.producer_id and _is_open(producer):
                    self._write(decided, producer.producer_epoch, producer.coordinator_epoch)
                    return True
        return False

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _write(self, decided: Decided, producer_epoch: int, coordinator_epoch: int) -> None:
        """As the library's abort_transaction does it, which writes no other marker."""
        marker = WriteTxnMarkersRequest.WritableTxnMarker(
            producer_id=decided.producer_id,
            producer_epoch=producer_epoch,
            transaction_result=decided.committed,
            topics=[
                WriteTxnMarkersRequest.WritableTxnMarker.WritableTxnMarkerTopic(
                    name=self._place.topic, partition_indexes=[self._place.partition]
                )
            ],
            coordinator_epoch=max(0, coordinator_epoch),  # -1: it has never written one here
        )
        self._client._manager.run(self._send, WriteTxnMarkersRequest(markers=[marker]))
        decision = "commit" if decided.committed else "abort"
        WRITTEN.labels(self._place.topic, decision).inc()
        log.warning(
            "log.marker_written",
            topic=self._place.topic,
            partition=self._place.partition,
            producer_id=decided.producer_id,
            decision=decision,
        )

    async def _send(self, request: WriteTxnMarkersRequest) -> None:
        leaders = await self._client._async_get_leader_for_partitions([self._place])
        response = await self._client._manager.send(request, node_id=next(iter(leaders)))
        (result,) = response.markers
        (answer,) = result.topics[0].partitions
        error = kafka.errors.for_code(answer.error_code)
        if error is not kafka.errors.NoError:
            raise error(f"the marker for {self._place} was refused")


class Fencing:
    """Initialises transactional ids of a partition so that what was decided before holds."""

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        topic: str,
        partition: int,
        settled: Callable[[], bool],
    ) -> None:
        """`settled` tells whether no transaction is open in the partition."""
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._partition = partition
        self._is_settled = settled
        self._told: dict[str, Decided] = {}

    def fence(self, transactional_id: str, initialise: Callable[[], None]) -> None:
        """Call `initialise`, and write the marker of the id's last transaction if it is missing.

        An attempt that fails may be made again: what was told before it is not forgotten.
        """
        if self._is_settled():
            self._told.pop(transactional_id, None)
            initialise()
            return
        markers = MarkerClient(
            bootstrap_servers=self._bootstrap_servers,
            topic=self._topic,
            partition=self._partition,
        )
        try:
            told = markers.decided(transactional_id, self._told.get(transactional_id))
            if told is None:
                self._told.pop(transactional_id, None)
                initialise()
            else:
                self._told[transactional_id] = told  # should this attempt fail
                initialise()
                markers.settle(told)
                del self._told[transactional_id]
        finally:
            markers.close()


def _is_open(producer: object) -> bool:
    return int(getattr(producer, "current_transaction_start_offset", -1)) >= 0


@contextmanager
def _answers() -> Iterator[None]:
    """The library's errors as ours."""
    try:
        yield
    except kafka.errors.KafkaError as error:
        raise Unavailable(f"Kafka does not tell of its transactions: {error!r}") from error
