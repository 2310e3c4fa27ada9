"""Given a gateway that asks who is there, when somebody comes, then it knows or refuses them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from gateway.api_keys import ApiKeyReader, read_api_keys
from gateway.callers import callers_of
from gateway.routes import PUBLIC, ROUTES
from gateway.tokens import TokenReader, read_jwks
from gateway.watched import WatchedFile
from tests.gateway_world import (
    AUDIENCE,
    ISSUER,
    GuardedDoor,
    Signer,
    guarded_door,
    problem,
    unsigned,
)
from tidelog.embedded.dev_keys import dev_token, prepare_keys
from tidelog.errors import ConfigurationError
from tidelog.http.errors import Unauthorized
from tidelog.settings import Settings

KEY = "tlk_" + "k" * 43


@pytest.fixture
def door(tmp_path: Path) -> Iterator[GuardedDoor]:
    with guarded_door(tmp_path) as door:
        yield door


def path_of(template: str, id: str = "o-bob") -> str:
    """The template with an id for each of its names."""
    return "/".join(id if part.startswith("{") else part for part in template.split("/"))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def bad_tokens(signer: Signer) -> dict[str, str]:
    now = int(time.time())
    claims = signer.claims("ada", "operator")
    public = signer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    raw = signer.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    forged = {"alg": "HS256", "typ": "JWT", "kid": signer.kid}
    head = unsigned(forged, claims).rsplit(".", 1)[0]
    good = signer.token("ada", "operator")
    return {
        "no token at all": "",
        "not a token": "x",
        "expired": signer.token("ada", "operator", exp=now - 60),
        "not valid yet": signer.token("ada", "operator", nbf=now + 600),
        "without expiry": signer.token("ada", "operator", exp=None),
        "expiry is a text": signer.token("ada", "operator", exp="soon"),
        "without audience": signer.token("ada", "operator", aud=None),
        "wrong audience": signer.token("ada", "operator", aud="another"),
        "wrong issuer": signer.token("ada", "operator", iss="https://evil.example"),
        "without subject": signer.token("ada", "operator", sub=None),
        "subject of two lines": signer.token("ada\nbob", "operator"),
        "subject too long": signer.token("a" * 129, "operator"),
        "scope is a list": signer.signed({**claims, "scope": ["operator"]}),
        "alg none": unsigned({"alg": "none", "kid": signer.kid}, claims),
        "HS256 with the public key": f"{head}.{_hs256(head, public)}",
        "HS256 with its raw bytes": f"{head}.{_hs256(head, raw)}",
        "unknown kid": Signer("k-9", signer.key).token("ada", "operator"),
        "kid is a path": Signer("../jwks.json", signer.key).token("ada", "operator"),
        "no kid": jwt.encode(claims, signer.key, algorithm="EdDSA"),
        "another key under our kid": Signer(signer.kid).token("ada", "operator"),
        "signature cut off": good.rsplit(".", 1)[0] + ".",
        "claims changed": _with_claims(good, {**claims, "sub": "bob"}),
    }


def _hs256(head: str, key: bytes) -> str:
    made = unsigned({}, {}, hmac.new(key, head.encode(), hashlib.sha256).digest())
    return made.rsplit(".", 1)[1]


def _with_claims(token: str, claims: dict[str, Any]) -> str:
    head, _, signature = token.split(".")
    return ".".join((head, unsigned({}, claims).split(".")[1], signature))


@pytest.mark.parametrize("name", list(bad_tokens(Signer())))
def test_b24_a_token_that_does_not_hold_lets_nobody_in(door: GuardedDoor, name: str) -> None:
    """B24: no token, expired, alg none, HS256 with the public key, unknown kid, wrong aud: 401."""
    token = bad_tokens(door.signer)[name]
    headers = bearer(token) if token else {}

    answer = door.send("GET", "/orders/o-ada", headers=headers)

    assert problem(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert door.reached() == []
    assert token == "" or token not in answer.text


def test_b24_a_token_that_is_too_large_is_not_read(door: GuardedDoor) -> None:
    """B24: a token of a megabyte is 431."""
    assert problem(door.send("GET", "/orders", headers=bearer("x" * 9_000)))[0] == 431
    assert problem(door.send("GET", "/orders", headers=bearer("x" * 1_000_000)))[0] == 431


def test_a_good_token_lets_in_and_goes_no_further(door: GuardedDoor) -> None:
    answer = door.send("GET", "/stock", "ada", "customer", headers={"X-Tidelog-Caller": "root"})

    assert answer.status_code == 200
    (told,) = door.queries.told
    assert told.headers[b"x-tidelog-caller"] == b"user:ada"
    assert b"authorization" not in told.headers


def test_a_scope_that_means_nothing_here_allows_nothing(door: GuardedDoor) -> None:
    assert problem(door.send("GET", "/stock", "ada", "root admin")) == (403, "forbidden")


def test_the_documents_are_for_everyone(door: GuardedDoor) -> None:
    public = [routed for routed in ROUTES if routed.access is PUBLIC]
    for routed in public:
        assert door.send("GET", path_of(routed.template)).status_code == 200
    assert {routed.template for routed in public} == {
        "/openapi.json", "/docs", "/problems", "/problems/{name}",
    }  # fmt: skip
    assert door.send("GET", "/livez").status_code == 200


def test_keys_are_rotated_without_a_restart(door: GuardedDoor) -> None:
    old, new = door.signer, Signer("k-2")
    assert door.send("GET", "/stock", "ada", "customer").status_code == 200

    door.publish(old, new)  # a kid that is not known makes the gateway look at once
    assert door.send("GET", "/stock", headers=new.headers("ada", "customer")).status_code == 200
    door.publish(new)

    until = time.monotonic() + 10
    while door.send("GET", "/stock", "ada", "customer").status_code == 200:
        assert time.monotonic() < until, "the old key holds still"
    assert door.send("GET", "/stock", headers=new.headers("ada", "customer")).status_code == 200


def test_a_slip_in_the_file_locks_nobody_out(tmp_path: Path) -> None:
    file, now = tmp_path / "jwks.json", [0.0]
    file.write_text(json.dumps({"keys": [Signer("k-1").public()]}))
    watched = WatchedFile(file, read_jwks, lambda: now[0])

    for broken in ("", "{", '{"keys": []}', '{"keys": [{"kid": "k-1", "kty": "oct", "k": "eA"}]}'):
        file.write_text(broken)
        os.utime(file, ns=(len(broken), len(broken)))
        assert list(watched.content(fresh=True)) == ["k-1"]
    file.unlink()
    assert list(watched.content(fresh=True)) == ["k-1"]
    file.write_text(json.dumps({"keys": [Signer("k-2").public()]}))
    assert list(watched.content()) == ["k-1"]  # looked at once a second
    now[0] = 1.0
    assert list(watched.content()) == ["k-2"]


@pytest.mark.parametrize(
    "key",
    [
        {"kid": "k", "kty": "oct", "alg": "HS256", "k": "c2VjcmV0"},
        {"kid": "k", "kty": "oct", "alg": "EdDSA", "k": "c2VjcmV0"},
        {**Signer("k").public(), "alg": "none"},
        {**Signer("k").public(), "alg": None},
        {**Signer("k").public(), "alg": "RS256"},
        {**Signer("k").public(), "d": "c2VjcmV0"},
        {name: value for name, value in Signer("k").public().items() if name != "kid"},
    ],
)
def test_only_public_keys_with_an_algorithm_of_theirs_are_taken(key: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        read_jwks(json.dumps({"keys": [key]}).encode())


def test_a_key_is_for_its_one_algorithm_whatever_a_token_says(tmp_path: Path) -> None:
    key = generate_private_key(public_exponent=65_537, key_size=2_048)
    public = {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "r", "alg": "RS256"}
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [public]}))
    reader = TokenReader(WatchedFile(file, read_jwks), issuer=ISSUER, audience=AUDIENCE)
    claims = Signer().claims("ada", "customer")

    def signed(algorithm: str) -> bytes:
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "r"}).encode()

    assert reader.caller(signed("RS256")).name == "user:ada"
    for other in ("PS256", "RS512"):
        with pytest.raises(Unauthorized):
            reader.caller(signed(other))


def test_a_machine_shows_its_key(door: GuardedDoor) -> None:
    hashed = hashlib.sha256(KEY.encode()).hexdigest()
    listed = [{"name": "erp", "sha256": hashed, "scopes": ["merchant"]}]
    door.api_keys.write_text(json.dumps({"keys": listed}))
    until = time.monotonic() + 10
    show = {"Authorization": f"ApiKey {KEY}"}
    while door.send("GET", "/sales/daily", headers=show).status_code == 401:
        assert time.monotonic() < until, "the new key is not known"

    assert door.queries.told[-1].headers[b"x-tidelog-caller"] == b"key:erp"
    assert door.send("GET", "/sagas", headers=show).status_code == 403
    for wrong in (KEY[:-1] + "x", "tlk_", "x", KEY + "k", hashed):
        answer = door.send("GET", "/stock", headers={"Authorization": f"ApiKey {wrong}"})
        assert problem(answer) == (401, "unauthorized")
    assert problem(door.send("GET", "/stock", headers=bearer(KEY))) == (401, "unauthorized")


def test_an_api_key_ends_when_the_file_says(tmp_path: Path) -> None:
    ends = datetime(2027, 1, 1, tzinfo=UTC)
    hashed = hashlib.sha256(KEY.encode()).hexdigest()
    file = tmp_path / "keys.json"
    line = {"name": "erp", "sha256": hashed, "scopes": ["service"], "expires": ends.isoformat()}
    file.write_text(json.dumps({"keys": [line]}))
    now = [ends - timedelta(seconds=1)]
    reader = ApiKeyReader(WatchedFile(file, read_api_keys), lambda: now[0])

    assert reader.caller(KEY.encode()).name == "key:erp"
    now[0] = ends
    with pytest.raises(Unauthorized):
        reader.caller(KEY.encode())


def test_a_development_token_opens_the_door_of_its_own_stack_only(tmp_path: Path) -> None:
    given = prepare_keys(tmp_path / "one")
    prepare_keys(tmp_path / "other")
    known = {name.removeprefix("TIDELOG_").lower(): value for name, value in given.items()}
    callers = callers_of(Settings.model_validate(known))

    def shown(data: Path, lifetime_s: float = 60) -> dict[bytes, bytes]:
        token = dev_token(data, "ada", ["customer", "merchant"], lifetime_s)
        return {b"authorization": b"Bearer " + token.encode()}

    caller = callers.of(shown(tmp_path / "one"))

    assert caller.name == "user:ada"
    assert sorted(caller.scopes) == ["customer", "merchant"]
    assert prepare_keys(tmp_path / "one") == given
    assert callers.of(shown(tmp_path / "one")) == caller, "the key is kept over restarts"
    with pytest.raises(Unauthorized):
        callers.of(shown(tmp_path / "other"))
    with pytest.raises(Unauthorized, match="expired"):
        callers.of(shown(tmp_path / "one", -60))
    with pytest.raises(ConfigurationError, match="--auth"):
        dev_token(tmp_path / "none", "ada", ["customer"])
    assert (tmp_path / "one" / "auth" / "signing-key.pem").stat().st_mode & 0o777 == 0o600


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TIDELOG_GATEWAY_JWKS_FILE"):
        callers_of(Settings(gateway_auth="on"))
    with pytest.raises(ConfigurationError, match="TIDELOG_GATEWAY_ISSUER"):
        callers_of(Settings(gateway_auth="on", gateway_jwks_file="x"))
    missing = str(tmp_path / "none.json")
    lost = Settings(gateway_auth="on", gateway_jwks_file=missing, gateway_issuer="i")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        callers_of(lost)
