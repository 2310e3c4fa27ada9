"""One partition of a topic in memory, with the semantics of Kafka's transactions.

What it keeps of Kafka 4 as a client without KIP-890 meets it:
- `init` bumps the id's epoch, so that whoever used the id before is refused; an open transaction
  is aborted first, and its abort marker takes an offset;
- records take offsets as they arrive, committed or not;
- `end` writes the decision at the coordinator; the marker follows later and takes an offset too;
  until then the id answers CONCURRENT_TRANSACTIONS to whoever wants to begin on it;
- an `end` that arrives late with an epoch that is still the current one ends whatever transaction
  is open on the id by then (KAFKA-17754); with an older epoch it is refused;
- the last stable offset is where the first undecided transaction began; committed readers stop
  there and skip what was aborted; the high watermark counts everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from tidelog.engine.ports import OutgoingRecord, StoredRecord


class LogRefusal(Exception):
    """The broker refuses a request."""


class ProducerFenced(LogRefusal):
    """Someone has initialised the transactional id since."""


class ConcurrentTransactions(LogRefusal):
    """The marker of the id's last transaction is not written yet: try again in a moment."""


class InvalidTransaction(LogRefusal):
    """There is no transaction that this request could belong to."""


class Decision(Enum):
    """What becomes of a transaction."""

    OPEN = "open"
    COMMIT = "commit"
    ABORT = "abort"


class _Transaction:
    """The records of one transaction; `marked` once its marker is in the partition."""

    __slots__ = ("decision", "epoch", "first_offset", "marked")

    def __init__(self, epoch: int, first_offset: int) -> None:
        self.epoch = epoch
        self.first_offset = first_offset
        self.decision = Decision.OPEN
        self.marked = False


class _Producer:
    """What coordinator and leader know about one transactional id."""

    __slots__ = ("epoch", "last_decision", "transaction")

    def __init__(self) -> None:
        self.epoch = -1
        self.transaction: _Transaction | None = None
        self.last_decision = Decision.OPEN


def _ignore(transactional_id: str) -> None:
    """Nobody listens."""


class MemoryLog:
    """A partition and the coordinator of the transactional ids that write to it.

    With `markers_delayed` somebody must call `write_marker` for each id that `on_decided` names;
    otherwise markers are written at once. `on_opened` names ids whose transaction has begun.
    """

    def __init__(
        self,
        *,
        markers_delayed: bool = False,
        on_opened: Callable[[str], None] = _ignore,
        on_decided: Callable[[str], None] = _ignore,
    ) -> None:
        self._markers_delayed = markers_delayed
        self._on_opened = on_opened
        self._on_decided = on_decided
        self._producers: dict[str, _Producer] = {}
        # Each offset holds a record and its transaction, or None where a marker lies.
        self._offsets: list[tuple[OutgoingRecord, _Transaction | None] | None] = []

    # --- producers ----------------------------------------------------------------------------

    def init(self, transactional_id: str) -> int:
        """Fence whoever used the id before, abort its open transaction; the new epoch.

        Raises ConcurrentTransactions until the marker of the former transaction is written.
        """
        producer = self._producers.setdefault(transactional_id, _Producer())
        transaction = producer.transaction
        if transaction is not None and transaction.decision is Decision.OPEN:
            self.expire(transactional_id)
        if producer.transaction is not None:
            raise ConcurrentTransactions(transactional_id)
        producer.epoch += 1
        producer.last_decision = Decision.OPEN
        return producer.epoch

    def append(
        self,
        transactional_id: str,
        epoch: int,
        records: Sequence[OutgoingRecord],
        *,
        begin: bool,
    ) -> tuple[int, int]:
        """Append to the id's transaction; the first and last offset of these records.

        `begin` says that the producer adds the partition to its transaction with this request.
        """
        producer = self._known(transactional_id)
        transaction = producer.transaction
        if begin:
            if epoch != producer.epoch:
                raise ProducerFenced(transactional_id)
            if transaction is None:
                transaction = _Transaction(epoch, self.high_watermark)
                producer.transaction = transaction
                self._on_opened(transactional_id)
            elif transaction.decision is not Decision.OPEN:
                raise ConcurrentTransactions(transactional_id)
        # The leader learns of a new epoch by the marker: until then it takes the old one's records.
        if transaction is None or transaction.epoch != epoch:
            fenced = epoch != producer.epoch
            raise (ProducerFenced if fenced else InvalidTransaction)(transactional_id)
        first = self.high_watermark
        self._offsets.extend((record, transaction) for record in records)
        return first, self.high_watermark - 1

    def end(self, transactional_id: str, epoch: int, *, commit: bool) -> None:
        """Decide the id's transaction. The same decision twice is fine, another is refused."""
        producer = self._known(transactional_id)
        if epoch != producer.epoch:
            raise ProducerFenced(transactional_id)
        wanted = Decision.COMMIT if commit else Decision.ABORT
        transaction = producer.transaction
        if transaction is None:
            if producer.last_decision is not wanted:
                raise InvalidTransaction(transactional_id)
        elif transaction.decision is Decision.OPEN:
            self._decide(transactional_id, transaction, wanted)
        elif transaction.decision is not wanted:
            raise InvalidTransaction(transactional_id)

    def expire(self, transactional_id: str) -> None:
        """Abort the id's open transaction for its age and fence its producer."""
        producer = self._known(transactional_id)
        transaction = producer.transaction
        if transaction is not None and transaction.decision is Decision.OPEN:
            producer.epoch += 1
            self._decide(transactional_id, transaction, Decision.ABORT)

    def write_marker(self, transactional_id: str) -> None:
        """Write the marker of the id's decided transaction; it takes an offset."""
        producer = self._known(transactional_id)
        transaction = producer.transaction
        assert transaction is not None and transaction.decision is not Decision.OPEN
        transaction.marked = True
        self._offsets.append(None)
        producer.transaction = None
        producer.last_decision = transaction.decision

    def append_plain(self, record: OutgoingRecord) -> int:
        """Append a record without any transaction, as a foreign producer does; its offset."""
        self._offsets.append((record, None))
        return self.high_watermark - 1

    # --- readers ------------------------------------------------------------------------------

    @property
    def high_watermark(self) -> int:
        """The offset after the last one, whatever lies there."""
        return len(self._offsets)

    @property
    def last_stable_offset(self) -> int:
        """The offset below which every transaction is decided and marked."""
        undecided = [
            producer.transaction.first_offset
            for producer in self._producers.values()
            if producer.transaction is not None
        ]
        return min(undecided, default=self.high_watermark)

    def read(self, offset: int, records_max: int = 1_000_000) -> tuple[list[StoredRecord], int]:
        """Committed records from the offset on, and the offset to go on from."""
        records: list[StoredRecord] = []
        end = self.last_stable_offset
        while offset < end and len(records) < records_max:
            held = self._offsets[offset]
            if held is not None and _readable(held[1]):
                key, value, headers = held[0]
                records.append(StoredRecord(offset, key, value, [*headers]))
            offset += 1
        return records, offset

    def opened_at(self, transactional_id: str) -> int | None:
        """Where the id's undecided transaction began, if it has one."""
        producer = self._producers.get(transactional_id)
        if producer is None or producer.transaction is None:
            return None
        undecided = producer.transaction.decision is Decision.OPEN
        return producer.transaction.first_offset if undecided else None

    def decided(self, offset: int) -> OutgoingRecord | None:
        """The record at the offset, if it is certain that committed readers will see it."""
        held = self._offsets[offset] if 0 <= offset < len(self._offsets) else None
        if held is None:
            return None
        certain = held[1] is None or held[1].decision is Decision.COMMIT
        return held[0] if certain else None

    # --- within -------------------------------------------------------------------------------

    def _known(self, transactional_id: str) -> _Producer:
        producer = self._producers.get(transactional_id)
        if producer is None:
            raise InvalidTransaction(transactional_id)
        return producer

    def _decide(self, transactional_id: str, transaction: _Transaction, decision: Decision) -> None:
        transaction.decision = decision
        self._on_decided(transactional_id)
        if not self._markers_delayed:
            self.write_marker(transactional_id)


def _readable(transaction: _Transaction | None) -> bool:
    return transaction is None or transaction.decision is Decision.COMMIT
