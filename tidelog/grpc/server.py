"""A gRPC server with bounds, the standard health service and reflection."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tidelog.grpc.credentials import CERTIFICATE_FILE, open_port
from tidelog.grpc.options import MESSAGE_BYTES_MAX
from tidelog.logging import get_logger

CALLS_MAX: Final = 8_192
"""Calls at once; more are answered RESOURCE_EXHAUSTED by the library."""

HEALTH_INTERVAL_S: Final = 0.25

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a port that is taken is an error, not a second listener
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", CALLS_MAX),
    ("grpc.max_metadata_size", 32 * 1024),
)
_log = get_logger("tidelog.grpc")


class GrpcServer:
    """One server. `ready` says whether the instance serves; the health service repeats it."""

    def __init__(
        self,
        services: Sequence[tuple[str, grpc.GenericRpcHandler]],
        ready: Callable[[], bool],
    ) -> None:
        self._services = services
        self._ready = ready

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, also where 0 was given. Lets in whom `credentials.py` says.

        Raises ConfigurationError where the port is taken or a certificate is no good.
        """
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        names = [name for name, _ in self._services]
        self._server.add_generic_rpc_handlers(tuple(handlers for _, handlers in self._services))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )
        bound, guarded = open_port(self._server, _authority(host, port))
        await self._server.start()
        self._watching = asyncio.create_task(self._watch(["", *names]))
        _log.info("listening for gRPC", port=bound, tls=guarded)
        if not guarded and not _is_loopback(host):
            _log.warning("whoever reaches the gRPC port is let in", setting=CERTIFICATE_FILE)
        return bound

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and let those under way end within the grace."""
        self._watching.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def _watch(self, names: Sequence[str]) -> None:
        """Tell the health service of every change."""
        told: bool | None = None
        while True:
            ready = self._ready()
            if ready is not told:
                told = ready
                states = health_pb2.HealthCheckResponse
                state = states.SERVING if ready else states.NOT_SERVING
                for name in names:
                    await self._health.set(name, state)
            await asyncio.sleep(HEALTH_INTERVAL_S)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
