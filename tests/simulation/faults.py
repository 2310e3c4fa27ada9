"""What may go wrong in a run. Each run draws a few kinds of fault: all at once hides bugs."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

HEARTBEAT_MS = 80.0
LEASE_MS = 200.0
SESSION_MS = 350.0
REQUEST_TIMEOUT_MS = 60.0
TRANSACTION_TIMEOUT_MS = 500.0
FAULTS_END_MS = 1_500.0
PATIENCE_MS = 30_000.0


@dataclass(kw_only=True)
class Faults:
    """Probabilities per step, request or message; all 0 once the faults stop."""

    crash: float = 0.0  # before or after each step of a process
    pause: float = 0.0  # SIGSTOP after a step
    lose_checkpoint: float = 0.0  # at a restart: lost, older, or corrupt
    lose_request: float = 0.0
    lose_answer: float = 0.0
    late_request: float = 0.0  # the requester gives up, then it arrives
    late_answer: float = 0.0
    marker_slow: float = 0.0
    broker_refuses: float = 0.0  # per tick of the world
    rebalance: float = 0.0  # per tick of the world
    callback_late: float = 0.0  # the process hears late that it has lost the partition
    foreign: float = 0.0  # per tick of the world: records of other producers
    lose_message: float = 0.0  # between client and process
    duplicate: float = 0.0  # the client sends the command twice at once
    other_content: float = 0.0  # the client uses an id again with other content
    poison: float = 0.0
    wrong_door: float = 0.0  # the client asks a process that is not the owner, but thinks so
    # 1: the group assigns the partition twice, and every lease seems to hold.
    lease_lies: float = 0.0
    latency_ms: float = 3.0  # one way, at most

    def stop(self) -> None:
        """No more faults; only the latency stays."""
        for field in fields(self):
            if field.name != "latency_ms":
                setattr(self, field.name, 0.0)


_STRONGEST = {
    "crash": 0.008,
    "pause": 0.01,
    "lose_checkpoint": 0.7,
    "lose_request": 0.08,
    "lose_answer": 0.08,
    "late_request": 0.12,
    "late_answer": 0.1,
    "marker_slow": 0.4,
    "broker_refuses": 0.15,
    "rebalance": 0.25,
    "callback_late": 0.6,
    "foreign": 0.3,
    "lose_message": 0.1,
    "duplicate": 0.4,
    "other_content": 0.2,
    "poison": 0.15,
    "wrong_door": 0.4,
}


def draw_faults(rng: random.Random) -> Faults:
    """Each kind is absent, mild or strong."""
    drawn = {
        name: strongest * rng.choice((0.0, 0.25, 1.0)) for name, strongest in _STRONGEST.items()
    }
    return Faults(
        **drawn,
        lease_lies=float(rng.random() < 0.3),
        latency_ms=rng.choice((2.0, 2.0, 2.0, 25.0)),
    )
