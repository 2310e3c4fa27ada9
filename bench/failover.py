"""FAILOVER: how long partitions stand without an owner, by each of Kafka's two group protocols.

Three members share the partitions of seven topics, as three command services do. In each round one
is killed (SIGKILL) and one leaves (SIGTERM); what is measured is the time until the last of its
partitions is assigned to another. The ends are replaced, and the time until the group is balanced
again is measured, too. The two groups take turns, on one broker, with the same session timeout.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from bench.group_member import MemberSpec, Told
from bench.stack import FOLDER
from tidelog.embedded import kafka as embedded_kafka
from tidelog.kafka.membership import Place, heartbeat_ms
from tidelog.kafka.topics import COMMANDS_CONFIG, admin_client, ensure_topics

TOPICS: Final = 7
PARTITIONS: Final = 4
MEMBERS: Final = 3
SESSION_TIMEOUT_MS: Final = 6_000
"""Of both: the embedded broker is told the same for groups that it keeps the time of, heartbeats
too."""

TIMEOUT_S: Final = 120.0
LOOK_S: Final = 0.005
CALM_S: Final = 1.0
"""How long a group must be balanced before the next thing is done to it."""

PROTOCOLS: Final[dict[str, dict[str, str] | None]] = {
    "classic, cooperative-sticky": None,
    "consumer (KIP-848)": {"group.protocol": "consumer"},
}
KILLED, LEFT, JOINED = "SIGKILL", "clean leave", "join, until balanced"


class Figure(NamedTuple):
    """The seconds of one thing that was done to a group, a value for each round."""

    protocol: str
    what: str
    seconds: list[float]


class Member:
    """A member in a process of its own, and what it owns by its own word."""

    def __init__(self, spec: MemberSpec) -> None:
        self.owned: dict[Place, float] = {}
        """By place since when."""
        self.began: float | None = None
        """When it began to join: its process takes its time to get there."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.group_member", msgspec.json.encode(spec).decode()],
            cwd=FOLDER,
            stdout=subprocess.PIPE,
        )
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def end(self, how: signal.Signals) -> float:
        """Send the signal; the moment at which it was sent."""
        self.process.send_signal(how)
        return time.monotonic()

    def close(self) -> None:
        """Kill what still runs, and hear its last words."""
        self.process.kill()
        self.process.wait()
        self._listening.join()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = msgspec.json.decode(line, type=Told)
            self.began = self.began or told.at
            for place in told.places:
                if told.gained:
                    self.owned[place] = told.at
                else:
                    self.owned.pop(place, None)


class Group:
    """Three members by one protocol."""

    def __init__(self, bootstrap_servers: str, protocol: str, topics: Sequence[str]) -> None:
        self.protocol = protocol
        self._bootstrap_servers = bootstrap_servers
        self._topics = [*topics]
        self._name = f"failover-{uuid.uuid4().hex[:8]}"
        self._count = 0
        self.members = [self._member() for _ in range(MEMBERS)]

    def fail(self, how: signal.Signals) -> tuple[float, float]:
        """End one; seconds until its last partition is another's, and until all is balanced."""
        gone = self.members.pop(0)
        orphans = {*gone.owned}
        ended_at = gone.end(how)
        _until(lambda: orphans <= self._owned().keys(), f"{self.protocol}: {how.name}")
        owned = self._owned()
        taken_s = max(owned[place] for place in orphans) - ended_at
        gone.process.wait(TIMEOUT_S)
        gone.close()
        self.members.append(self._member())
        balanced_at = self.balance()
        began = self.members[-1].began
        assert began is not None, "it owns its share, so it has begun"
        return taken_s, balanced_at - began

    def balance(self) -> float:
        """Wait until each has its share; the moment at which the last got its own."""
        _until(self._is_balanced, f"{self.protocol}: balance")
        time.sleep(CALM_S)
        _until(self._is_balanced, f"{self.protocol}: balance")
        return max(self._owned().values())

    def close(self) -> None:
        """End every member."""
        for member in self.members:
            member.close()

    def _owned(self) -> dict[Place, float]:
        return {place: at for member in self.members for place, at in list(member.owned.items())}

    def _is_balanced(self) -> bool:
        shares = [len(member.owned) for member in self.members]
        return sum(shares) == TOPICS * PARTITIONS and min(shares) >= TOPICS * PARTITIONS // MEMBERS

    def _member(self) -> Member:
        self._count += 1
        return Member(
            MemberSpec(
                bootstrap_servers=self._bootstrap_servers,
                group=self._name,
                name=f"member-{self._count}",
                topics=self._topics,
                session_timeout_ms=SESSION_TIMEOUT_MS,
                protocol=PROTOCOLS[self.protocol],
            )
        )


def measured(kafka: str, rounds: int, tell: Callable[[str], None]) -> list[Figure]:
    """The figures of both protocols; `kafka` is a broker that runs already, '' starts one."""
    with _broker(kafka) as bootstrap_servers, ExitStack() as exits:
        topics = [f"failover-{uuid.uuid4().hex[:8]}.commands" for _ in range(TOPICS)]
        made = dict.fromkeys(topics, COMMANDS_CONFIG)
        ensure_topics(admin_client(bootstrap_servers), made, PARTITIONS, replication_factor=1)
        groups = []
        for protocol in PROTOCOLS:
            group = Group(bootstrap_servers, protocol, topics)
            exits.callback(group.close)
            group.balance()
            groups.append(group)
        figures = {
            (group.protocol, what): Figure(group.protocol, what, [])
            for group in groups
            for what in (KILLED, LEFT, JOINED)
        }
        for number in range(1, rounds + 1):
            for group in groups:
                for what, how in ((KILLED, signal.SIGKILL), (LEFT, signal.SIGTERM)):
                    taken_s, joined_s = group.fail(how)
                    tell(f"round {number} of {rounds}: {group.protocol}: {what} {taken_s:.2f} s")
                    figures[group.protocol, what].seconds.append(taken_s)
                    figures[group.protocol, JOINED].seconds.append(joined_s)
        return [*figures.values()]


def show(figures: Sequence[Figure], console: Console) -> None:
    """Print a table, and the same as JSON."""
    table = Table(title="FAILOVER: seconds without an owner", title_justify="left")
    for name in ("group protocol", "what", "median", "worst", "best", "rounds"):
        table.add_column(name, justify="left" if name in ("group protocol", "what") else "right")
    for protocol, what, seconds in figures:
        values = (statistics.median(seconds), max(seconds), min(seconds))
        table.add_row(protocol, what, *(f"{value:.2f}" for value in values), str(len(seconds)))
    console.print(table)
    console.print(
        f"[dim]{MEMBERS} members, {TOPICS * PARTITIONS} partitions; session timeout "
        f"{SESSION_TIMEOUT_MS} ms, heartbeats of {heartbeat_ms(SESSION_TIMEOUT_MS)} ms.[/dim]"
    )
    print(msgspec.json.encode(figures).decode())


@contextmanager
def _broker(given: str) -> Iterator[str]:
    if given:
        yield given
        return
    with (
        tempfile.TemporaryDirectory(prefix="tidelog-bench-") as folder,
        embedded_kafka.start(Path(folder) / "kafka") as running,
    ):
        yield running.server.bootstrap_servers


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {TIMEOUT_S:g} s")
        time.sleep(LOOK_S)
