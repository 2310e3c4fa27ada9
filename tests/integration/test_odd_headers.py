"""Given a record whose header has bytes for a name that are no text, then it harms nobody."""

from __future__ import annotations

from schemas import ORDERS
from tests.log_writer import read_log
from tests.odd_record import append_odd_records
from tidelog.engine.ports import StoredRecord
from tidelog.kafka.topics import EVENTS_CONFIG, admin_client, ensure_topics
from tidelog.wire import events_topic


def test_a_record_with_such_a_header_is_read_as_one_without_headers(
    kafka: str, namespace: str
) -> None:
    topic = events_topic(ORDERS.name, namespace)
    ensure_topics(admin_client(kafka), {topic: EVENTS_CONFIG}, 1, 1)
    # Many: an interpreter that has warmed up may overlook the error that a call left behind.
    append_odd_records(kafka, topic, 0, 100)

    (records,) = read_log(kafka, topic, 1)

    assert records == [StoredRecord(offset, None, b"not ours", []) for offset in range(100)]
