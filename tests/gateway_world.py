"""A gateway before services that answer from a table, and callers with tokens of their own."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from prometheus_client import CollectorRegistry

from gateway.app import build
from tests.integration.command_server import serving
from tidelog.http.asgi import Receive, Scope, Send
from tidelog.settings import Settings

BACKGROUND = "/sagas/durations"
"""What the gateway asks of its own accord, whoever comes."""

ISSUER, AUDIENCE = "https://login.example", "tidelog"


@dataclass
class Told:
    """What a service was asked."""

    method: str
    target: str
    headers: dict[bytes, bytes]
    body: bytes


async def live(receive: Receive, send: Send) -> None:
    """Begin and end with the server, and have nothing to do for either."""
    kind = ""
    while kind != "lifespan.shutdown":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})


@dataclass
class TableService:
    """A service that answers from a table, 200 and `{}` where it has no line."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    endless: set[str] = field(default_factory=set)
    """Paths whose answer begins and goes on until the caller leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = scope["query_string"].decode()
        target = scope["raw_path"].decode() + (f"?{query}" if query else "")
        if scope["path"] != BACKGROUND:
            self.told.append(Told(scope["method"], target, dict(scope["headers"]), body))
        if scope["path"] in self.endless:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b": begun\n\n", "more_body": True})
            await receive()
            return
        status, content = self.answers.get(scope["path"], (200, {}))
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})

    def targets(self) -> list[str]:
        """What it was asked, in order, and not for its health."""
        return [f"{told.method} {told.target}" for told in self.told]


@dataclass
class Signer:
    """Whoever makes tokens: a private key and its kid."""

    kid: str = "k-1"
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def public(self) -> dict[str, Any]:
        """The line of the JWKS."""
        made = OKPAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {**made, "kid": self.kid, "alg": "EdDSA"}

    def claims(self, subject: str, scope: str, **changes: Any) -> dict[str, Any]:
        """Good claims, with changes; None leaves one out."""
        now = int(time.time())
        made = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "scope": scope, "exp": now + 600,
            **changes,
        }  # fmt: skip
        return {name: value for name, value in made.items() if value is not None}

    def token(self, subject: str, scope: str, **changes: Any) -> str:
        """A token signed with the key."""
        return self.signed(self.claims(subject, scope, **changes))

    def signed(self, claims: dict[str, Any]) -> str:
        """A token of these claims."""
        return jwt.encode(claims, self.key, algorithm="EdDSA", headers={"kid": self.kid})

    def headers(self, subject: str, scope: str) -> dict[str, str]:
        """The header of a request."""
        return {"Authorization": f"Bearer {self.token(subject, scope)}"}


def unsigned(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@dataclass
class GuardedDoor:
    """The running gateway with authentication on, and all around it."""

    client: httpx2.Client
    commands: TableService
    queries: TableService
    signer: Signer
    jwks: Path
    api_keys: Path

    def publish(self, *signers: Signer) -> None:
        """The keys that hold from now on."""
        self.jwks.write_text(json.dumps({"keys": [signer.public() for signer in signers]}))

    def send(
        self, method: str, target: str, who: str = "", scope: str = "", **options: Any
    ) -> httpx2.Response:
        """A request as `who` with `scope`; as nobody where neither is given."""
        headers = dict(options.pop("headers", {}))
        if who:
            headers |= self.signer.headers(who, scope)
        request = self.client.build_request(method, "/", headers=headers, **options)
        request.extensions["target"] = target.encode()
        return self.client.send(request)

    def reached(self) -> list[str]:
        """What the services were asked."""
        return self.commands.targets() + self.queries.targets()


@contextmanager
def guarded_door(
    folder: Path,
    *,
    commands_url: str | None = None,
    queries_url: str | None = None,
    **settings: Any,
) -> Iterator[GuardedDoor]:
    """A gateway that asks who is there. `o-ada` is an order of ada's, `o-bob` one of bob's.

    It keeps no answers unless told how many, so that a service hears of every request.
    """
    commands, queries, signer = TableService(), TableService(), Signer()
    queries.answers |= {
        "/orders/o-ada": (200, {"id": "o-ada", "customer_id": "ada"}),
        "/orders/o-bob": (200, {"id": "o-bob", "customer_id": "bob"}),
        "/orders/o-none": (404, {"title": "nothing of that name was found in orders"}),
        "/returns/r-ada": (200, {"id": "r-ada", "order_id": "o-ada"}),
        "/returns/r-bob": (200, {"id": "r-bob", "order_id": "o-bob"}),
    }
    jwks, api_keys = folder / "jwks.json", folder / "keys.json"
    api_keys.write_text('{"keys": []}')
    jwks.write_text(json.dumps({"keys": [signer.public()]}))
    with ExitStack() as stack:
        known = Settings(
            command_service_url=commands_url or stack.enter_context(serving(cast("Any", commands))),
            query_service_url=queries_url or stack.enter_context(serving(cast("Any", queries))),
            gateway_jwks_file=str(jwks),
            gateway_issuer=ISSUER,
            gateway_audience=AUDIENCE,
            gateway_api_keys_file=str(api_keys),
            **{"gateway_auth": "on", "gateway_cache_bytes_max": 0, **settings},
        )
        url = stack.enter_context(serving(build(known, CollectorRegistry())))
        client = stack.enter_context(httpx2.Client(base_url=url, trust_env=False, timeout=30))
        yield GuardedDoor(client, commands, queries, signer, jwks, api_keys)


def problem(answer: httpx2.Response) -> tuple[int, str]:
    """Status and name of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")
