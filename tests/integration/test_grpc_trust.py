"""Instances that show certificates: they answer one another, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.fixtures.certificates import Authority, Pair
from tests.integration.test_forwarding import (
    PARTITIONS,
    Log,
    command,
    instances,
    recorded,
    refused,
)
from tidelog.errors import ConfigurationError, NotOwner
from tidelog.grpc.credentials import open_channel, refusal
from tidelog.grpc.server import GrpcServer

HOST = "127.0.0.1"


class Trust:
    """Two authorities, and the settings by which this process takes one side."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        (folder / "strangers").mkdir()
        self.ours = Authority(folder)
        self.strangers = Authority(folder / "strangers", "stranger")
        self._patch = patch

    def show(self, pair: Pair | None, trusted: Authority | None = None) -> None:
        """From now on this process shows the pair and trusts the authority; None: in the clear."""
        files = {
            "CA": (trusted or self.ours).certificate,
            "CERTIFICATE": pair and pair.certificate,
            "KEY": pair and pair.key,
        }
        for name, path in files.items():
            self._patch.setenv(f"TIDELOG_GRPC_SSL_{name}_FILE", str(path) if pair else "")

    def stranger(self) -> grpc.ChannelCredentials:
        """Somebody who knows our authority, with a certificate of another."""
        pair = self.strangers.pair("eve")
        return grpc.ssl_channel_credentials(
            self.ours.certificate.read_bytes(),
            pair.key.read_bytes(),
            pair.certificate.read_bytes(),
        )

    def nobody(self) -> grpc.ChannelCredentials:
        """Somebody who knows our authority, without a certificate."""
        return grpc.ssl_channel_credentials(self.ours.certificate.read_bytes())


@pytest.fixture
def trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trust:
    return Trust(tmp_path, monkeypatch)


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    """A server as the settings say; its address."""
    made = GrpcServer([], ready=lambda: True)
    port = await made.start(HOST, 0)
    try:
        yield f"{HOST}:{port}"
    finally:
        await made.stop(0)


async def ask(channel: grpc.aio.Channel) -> grpc.StatusCode | grpc.aio.AioRpcError:
    """OK, or why there was no answer."""
    try:
        async with channel:
            stub = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    except grpc.aio.AioRpcError as error:
        return error
    return grpc.StatusCode.OK


async def test_instances_forward_to_one_another(trust: Trust) -> None:
    trust.show(trust.ours.pair("instance"))
    async with instances(Log(), 2) as (_, other):
        outcome = await other.door.submit("inventory", command("mug"))
        assert recorded(outcome).version == 1


@pytest.mark.parametrize("who", ["in the clear", "nobody", "a stranger"])
async def test_whoever_shows_no_certificate_of_ours_is_refused(trust: Trust, who: str) -> None:
    trust.show(trust.ours.pair("instance"))
    async with server() as address:
        assert await ask(open_channel(address, ())) is grpc.StatusCode.OK
        if who == "in the clear":
            channel = grpc.aio.insecure_channel(address)
        else:
            shown = trust.nobody() if who == "nobody" else trust.stranger()
            channel = grpc.aio.secure_channel(address, shown)
        answer = await ask(channel)
        assert isinstance(answer, grpc.aio.AioRpcError)
        assert answer.code() is grpc.StatusCode.UNAVAILABLE
        assert "TIDELOG_GRPC_SSL_CERTIFICATE_FILE" in (refusal(answer) or ""), answer.details()


async def test_a_stranger_in_the_owners_place_is_sent_no_command(trust: Trust) -> None:
    log = Log()
    trust.show(trust.strangers.pair("eve"), trust.strangers)
    async with server() as eve:
        trust.show(trust.ours.pair("instance"))
        async with instances(log, 1, command_timeout_ms=900) as (one,):
            log.owners.update(dict.fromkeys(range(PARTITIONS), eve))
            outcome = await one.door.submit("inventory", command("mug"))
            assert isinstance(refused(outcome), NotOwner)


@pytest.mark.parametrize(
    ("who", "named"),
    [
        ("a stranger", "TIDELOG_GRPC_SSL_CA_FILE"),
        ("another host", "TIDELOG_GRPC_ADDRESS"),
        ("in the clear", "TIDELOG_GRPC_SSL_CERTIFICATE_FILE"),
    ],
)
async def test_where_we_do_not_trust_the_other_side_the_setting_is_named(
    trust: Trust, who: str, named: str
) -> None:
    if who == "a stranger":
        trust.show(trust.strangers.pair("eve"), trust.strangers)
    elif who == "another host":
        trust.show(trust.ours.pair("elsewhere", addresses=()))
    else:
        trust.show(None)
    async with server() as address:
        trust.show(trust.ours.pair("instance"))
        answer = await ask(open_channel(address, ()))
        assert isinstance(answer, grpc.aio.AioRpcError)
        assert named in (refusal(answer) or ""), answer.details()


async def test_an_instance_that_is_gone_is_no_question_of_trust(trust: Trust) -> None:
    trust.show(trust.ours.pair("instance"))
    async with server() as address:
        pass
    answer = await ask(open_channel(address, ()))
    assert isinstance(answer, grpc.aio.AioRpcError)
    assert refusal(answer) is None


@pytest.mark.parametrize("certified", [True, False])
async def test_a_port_that_is_taken_is_named(trust: Trust, certified: bool) -> None:
    trust.show(trust.ours.pair("instance") if certified else None)
    async with server() as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=f"TIDELOG_GRPC_PORT: {address}"):
            await GrpcServer([], ready=lambda: True).start(HOST, port)
