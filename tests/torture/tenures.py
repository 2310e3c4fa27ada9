"""Who wrote what, as the broker's own files tell it: producer ids and epochs of every batch.

Each partition of an event topic has two transactional ids, and so two producers, a and b. Whoever
takes over fences both (their epochs go up), and writes on a first. So the log of a partition is a
row of tenures: one begins where a's epoch goes up, and nothing of an earlier epoch, be it of a or
of b, may lie behind that. No client shows this; the files do (Kafka's record batch, version 2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
"""Of a batch: base offset, length, leader's epoch, magic, checksum, attributes, last offset delta,
two times, producer id, producer epoch, base sequence, number of records."""

LENGTH_FROM: Final = 12
"""A batch's length counts from behind its own field."""

CONTROL: Final = 0x20
MAGIC: Final = 2
TIMEOUT_S: Final = 10.0


class Batch(NamedTuple):
    """Records of one transaction's writer."""

    offset: int
    producer: int
    epoch: int


def log_folder(bootstrap_servers: str) -> Path | None:
    """Where the broker keeps its log; None where that is on another machine."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    (broker, *_) = admin.list_topics(timeout=TIMEOUT_S).brokers
    resource = ConfigResource(ResourceType.BROKER, str(broker))
    described = admin.describe_configs([resource])[resource].result(TIMEOUT_S)
    value = described["log.dirs"].value
    folder = Path(value) if value else None
    return folder if folder is not None and folder.exists() else None


def batches(partition: Path) -> Iterator[Batch]:
    """The data batches in a partition's folder, in order; markers are left out."""
    for segment in sorted(partition.glob("*.log")):
        raw = segment.read_bytes()
        at = 0
        while at + HEADER.size <= len(raw):
            fields = HEADER.unpack_from(raw, at)
            offset, length, magic, attributes = fields[0], fields[1], fields[3], fields[5]
            if length <= 0:
                break  # room that was made and not written yet
            assert magic == MAGIC, f"{segment}: a batch of version {magic}"
            if not attributes & CONTROL:
                yield Batch(offset, fields[9], fields[10])
            at += LENGTH_FROM + length


def tenures(found: Iterable[Batch]) -> list[list[Batch]]:
    """The batches of each tenure; a tenure begins where the epoch of the first producer goes up."""
    rows: list[list[Batch]] = []
    first, epoch = None, -1
    for batch in found:
        if first is None:
            first = batch.producer
        if batch.producer == first and batch.epoch > epoch:
            rows.append([])
            epoch = batch.epoch
        rows[-1].append(batch)
    return rows


def check_tenures(place: str, rows: Sequence[Sequence[Batch]]) -> list[str]:
    """What was appended by an owner behind the first record of the next one."""
    faults = []
    newest: dict[int, int] = {}
    for number, row in enumerate(rows):
        before = dict(newest)
        for batch in row:
            own = newest.setdefault(batch.producer, batch.epoch)
            is_late = batch.epoch < own or batch.epoch <= before.get(batch.producer, -1)
            if is_late:
                faults.append(
                    f"{place}: a record at {batch.offset} of producer {batch.producer}, epoch "
                    f"{batch.epoch}, lies in tenure {number + 1}, which has fenced it"
                )
            newest[batch.producer] = max(own, batch.epoch)
    return faults
