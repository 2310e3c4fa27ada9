"""One member of a group, as a command service is one: `python -m bench.group_member SPEC`.

It says on stdout what it is given and what is taken from it, a line each, and leaves on SIGTERM.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from tidelog.kafka.lease import Lease
from tidelog.kafka.membership import GroupMembership, MembershipEvents, Place
from tidelog.logging import configure_logging

LEAVE_TIMEOUT_S = 15.0


class MemberSpec(msgspec.Struct, frozen=True):
    """What a member is told."""

    bootstrap_servers: str
    group: str
    name: str
    topics: list[str]
    session_timeout_ms: int
    protocol: dict[str, str] | None
    """None is the protocol of the product."""


class Told(msgspec.Struct, frozen=True):
    """What a member says. The clock is the machine's, the same for all processes."""

    at: float
    gained: bool
    places: list[Place]


def main() -> int:
    """Be a member until SIGTERM."""
    spec = msgspec.json.decode(sys.argv[1].encode(), type=MemberSpec)
    configure_logging("error", "group_member", spec.name)  # to stderr: what is said here is read
    leaving = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leaving.set())
    membership = GroupMembership(
        bootstrap_servers=spec.bootstrap_servers,
        group=spec.group,
        client_id=spec.name,
        topics=spec.topics,
        session_timeout_ms=spec.session_timeout_ms,
        lease=Lease(spec.session_timeout_ms),
        events=MembershipEvents(
            assigned=_say(gained=True),
            released=_say(gained=False),
            lost=_say(gained=False),
            records=lambda _place, _records: None,
        ),
        protocol=spec.protocol,
    )
    _say(gained=True)([])  # from here on it is the group that it waits for
    membership.start()
    leaving.wait()
    membership.stop(LEAVE_TIMEOUT_S)
    return 0


def _say(*, gained: bool) -> Callable[[Sequence[Place]], None]:
    def say(places: Sequence[Place]) -> None:
        told = Told(at=time.monotonic(), gained=gained, places=[*places])
        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        sys.stdout.buffer.flush()

    return say


if __name__ == "__main__":
    sys.exit(main())
