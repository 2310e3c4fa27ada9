"""The embedded Kafka and PostgreSQL: they answer, and keep port and data over restarts."""

from __future__ import annotations

import uuid

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.fixtures.servers import Database, server_folder
from tidelog.embedded import kafka as embedded_kafka
from tidelog.embedded import postgres as embedded_postgres

TIMEOUT_S = 20.0


def test_the_broker_takes_a_transaction(kafka: str, namespace: str) -> None:
    topic = f"{namespace}orders"
    make_topic(kafka, topic)

    commit_one(kafka, topic, b"hello")

    assert read_one(kafka, topic) == b"hello"


def test_the_database_answers_in_a_schema_of_its_own(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {database.schema}.t (a int)".encode())
        version = connection.execute("SHOW server_version_num").fetchone()

    assert version is not None
    assert version[0].startswith("18")


def test_a_killed_broker_comes_back_on_its_port_with_its_records() -> None:
    with server_folder() as folder:
        with embedded_kafka.start(folder) as first:
            servers = first.server.bootstrap_servers
            make_topic(servers, "kept")
            commit_one(servers, "kept", b"survives")
            assert read_one(servers, "kept") == b"survives"  # the commit's marker is written
            first.kill()
        with embedded_kafka.start(folder) as second:
            assert second.server.bootstrap_servers == servers
            assert read_one(servers, "kept") == b"survives"


def test_a_killed_database_comes_back_on_its_port_with_its_rows() -> None:
    with server_folder() as folder:
        with embedded_postgres.start(folder) as first:
            dsn = first.server.dsn
            with psycopg.connect(dsn) as connection:
                connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            first.kill()
        with embedded_postgres.start(folder) as second, psycopg.connect(dsn) as connection:
            assert second.server.dsn == dsn
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def make_topic(servers: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    for made in admin.create_topics([NewTopic(name, 1, 1)], operation_timeout=TIMEOUT_S).values():
        made.result()


def commit_one(servers: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": servers, "transactional.id": f"test-{uuid.uuid4()}"})
    producer.init_transactions(TIMEOUT_S)
    producer.begin_transaction()
    producer.produce(topic, value)
    producer.commit_transaction(TIMEOUT_S)


def read_one(servers: str, topic: str) -> bytes | None:
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"test-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    # By hand: a broker that has just come back may not tell a group member of its topics yet.
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        record = consumer.poll(TIMEOUT_S)
        assert record is not None
        value: bytes | None = record.value()
        return value
    finally:
        consumer.close()
