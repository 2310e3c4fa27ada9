"""Calls from this instance to the others: one channel, one bulkhead and one breaker for each.

A peer that dies or hangs must cost its own commands a little patience and the others nothing: so
an attempt is short, a call that waits takes one of a bounded number of places, and a breaker says
no at once while nothing comes back.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import grpc
import grpc.aio
from prometheus_client import Counter, Gauge, Histogram

from tidelog.breaker import BreakerOptions, CircuitBreaker, State
from tidelog.engine.command import Envelope, Outcome
from tidelog.engine.ports import MessageCodec
from tidelog.errors import NotOwner, Overloaded, TidelogError
from tidelog.grpc import peers_pb2
from tidelog.grpc.credentials import open_channel, refusal
from tidelog.grpc.messages import forwarded_command, outcome_of
from tidelog.grpc.options import CHANNEL_OPTIONS
from tidelog.logging import get_logger

SUBMIT: Final = "/tidelog.peers.v1.PeerService/Submit"
CALLS_MAX: Final = 1_024
"""Calls at once to one peer."""

PEERS_MAX: Final = 64
"""Channels kept; the one that was not used for longest is closed first."""

ATTEMPT_S: Final = 2.5
"""How long one attempt may take: a peer that hangs is asked for no longer than this at a time."""

NO_ANSWER: Final = "The instance that owns this key does not answer. Send it again, same key."

BREAKER: Final = BreakerOptions(window_s=5.0, calls_min=20, open_s=0.5, trials_max=4)
"""It only spares a dead peer the connection attempts: the group names another owner in seconds."""

FORWARDED = Counter(
    "tidelog_forwarded_total", "Attempts to forward a command, by what came of them.", ["outcome"]
)
FORWARD_SECONDS = Histogram(
    "tidelog_forward_seconds",
    "One attempt to forward a command, until its answer.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
PEER_BREAKER = Gauge(
    "tidelog_peer_breaker_state", "0 closed, 1 half-open, 2 open: calls are refused.", ["peer"]
)

_STATES: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}
log = get_logger(__name__)


class Peers:
    """The other instances, by address. One event loop uses it."""

    def __init__(
        self,
        codec: MessageCodec,
        known: Mapping[str, type[TidelogError]],
        *,
        attempt_s: float = ATTEMPT_S,
        calls_max: int = CALLS_MAX,
        breaker: BreakerOptions = BREAKER,
    ) -> None:
        self._codec = codec
        self._known = known
        self._attempt_s = attempt_s
        self._calls_max = calls_max
        self._breaker = breaker
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    async def submit(
        self, address: str, context: str, envelope: Envelope, remaining_s: float
    ) -> Outcome:
        """One attempt at the owner. Raises NotOwner, or Overloaded where no place is free.

        An attempt without an answer may have been carried out: the same command id tells.
        """
        peer = await self._peer(address)
        request = forwarded_command(context, envelope, self._codec)
        answer = await peer.call(request, min(self._attempt_s, remaining_s))
        return outcome_of(answer, self._known)

    async def close(self) -> None:
        """Close every channel."""
        for peer in self._peers.values():
            await peer.close()
        self._peers.clear()

    async def _peer(self, address: str) -> _Peer:
        peer = self._peers.get(address)
        if peer is None:
            await self._make_room()
            # Another task may have been here meanwhile.
            peer = self._peers.get(address) or _Peer(address, self._breaker, self._calls_max)
            self._peers[address] = peer
        self._peers.move_to_end(address)
        return peer

    async def _make_room(self) -> None:
        """Instances come and go at new addresses; the channels of old ones are closed."""
        idle = [one for one, peer in self._peers.items() if peer.calls == 0]
        for address in idle[: max(len(self._peers) - PEERS_MAX + 1, 0)]:
            await self._peers.pop(address).close()


class _Peer:
    """One other instance."""

    def __init__(self, address: str, breaker: BreakerOptions, calls_max: int) -> None:
        self.calls = 0
        self._calls_max = calls_max
        self._address = address
        self._channel = open_channel(address, CHANNEL_OPTIONS)
        self._submit = self._channel.unary_unary(
            SUBMIT,
            request_serializer=peers_pb2.ForwardedCommand.SerializeToString,
            response_deserializer=peers_pb2.Outcome.FromString,
        )
        self._breaker = CircuitBreaker(address, breaker, time.monotonic, _changed)
        PEER_BREAKER.labels(address).set(0)

    async def call(
        self, request: peers_pb2.ForwardedCommand, timeout_s: float
    ) -> peers_pb2.Outcome:
        """One call, within the time."""
        if self.calls >= self._calls_max:
            FORWARDED.labels("overloaded").inc()
            raise Overloaded(f"{self._calls_max} commands wait for the owner of this key already.")
        if not self._breaker.allow():
            FORWARDED.labels("breaker").inc()
            raise NotOwner(NO_ANSWER)
        self.calls += 1
        began = time.monotonic()
        try:
            answer: peers_pb2.Outcome = await self._submit(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            self._breaker.failed()
            FORWARDED.labels("unreachable").inc()
            self._say(error)
            raise NotOwner(NO_ANSWER) from None
        except BaseException:
            self._breaker.left()
            raise
        finally:
            self.calls -= 1
        self._breaker.succeeded()
        FORWARDED.labels(answer.WhichOneof("outcome") or "unknown").inc()
        FORWARD_SECONDS.observe(time.monotonic() - began)
        return answer

    def _say(self, error: grpc.aio.AioRpcError) -> None:
        distrust = refusal(error)
        if distrust is not None:
            log.error("peer.refused", peer=self._address, reason=distrust)
        else:
            details = error.details() or ""
            log.info("peer.unreachable", peer=self._address, code=error.code().name, why=details)

    async def close(self) -> None:
        """Close the channel."""
        PEER_BREAKER.remove(self._address)
        await self._channel.close()


def _changed(name: str, state: State) -> None:
    PEER_BREAKER.labels(name).set(_STATES[state])
    log.warning("peer.breaker", peer=name, state=state)
