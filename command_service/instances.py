"""What makes this process one of several that behave as one: its gRPC server, and its peers."""

from __future__ import annotations

import socket
import time
from typing import Final

from command_service.aggregates import AGGREGATES
from tidelog.codec import Codec
from tidelog.grpc.command_server import (
    COMMAND_SERVICE,
    PEER_SERVICE,
    CommandHandlers,
    PeerHandlers,
)
from tidelog.grpc.forwarding import ForwardingDoor
from tidelog.grpc.peers import Peers
from tidelog.grpc.server import GrpcServer
from tidelog.http.command_api import CommandApi
from tidelog.http.draining import Draining
from tidelog.http.problems import known_problems
from tidelog.kafka.command_host import CommandHost, directory_of
from tidelog.settings import Settings

GRACE_S: Final = 1.0
"""How long calls under way may take once the partitions are handed over: they are refused soon."""

MOVE_GRACE_S: Final = 10.0
"""How long a partition may take to move here before this instance, once ready, is not."""

EVERYWHERE: Final = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound


class Instances:
    """The door to all partitions, wherever they are owned."""

    def __init__(
        self, settings: Settings, host: CommandHost, codec: Codec, draining: Draining
    ) -> None:
        self._settings = settings
        self._draining = draining
        self._host = host
        self._codec = codec
        self._address = ""
        self._served_at: float | None = None
        self._peers = Peers(codec, known_problems(AGGREGATES))
        self.door: Final = ForwardingDoor(
            host,
            self._peers,
            directory_of(settings),
            command_timeout_ms=settings.command_timeout_ms,
            own_address=lambda: self._address,
        )

    async def listen(self, api: CommandApi) -> str:
        """Start the gRPC server; the address by which other instances reach it."""
        settings = self._settings
        self._server = GrpcServer(
            [
                (COMMAND_SERVICE, CommandHandlers(api).handlers()),
                (PEER_SERVICE, PeerHandlers(self._host.submit, self._codec).handlers()),
            ],
            ready=lambda: not self._draining.begun and not self.problems(),
        )
        port = await self._server.start(settings.http_host, settings.grpc_port)
        self._address = settings.grpc_address or f"{_reachable(settings.http_host)}:{port}"
        return self._address

    def problems(self) -> list[str]:
        """Why this instance should be sent no commands.

        When an instance leaves, the others take its partitions over, all at the same time. Were
        they not ready meanwhile, nobody would be; but what moves is waited for. So an instance
        that was ready stays so while partitions move, for a while.
        """
        faults, waits = self._host.faults(), self._host.waits()
        now = time.monotonic()
        if not waits:
            self._served_at = now
        elif self._served_at is not None and now - self._served_at < MOVE_GRACE_S:
            waits = []
        return [*faults, *waits]

    async def close(self) -> None:
        """Stop serving and calling others; the partitions are handed over already."""
        await self._server.stop(GRACE_S)
        await self._peers.close()


def _reachable(host: str) -> str:
    """A name under which others find an address to listen on."""
    if host in EVERYWHERE:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
