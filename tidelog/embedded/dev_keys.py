"""The keys of a stack that runs with `--auth`: made once, kept in its data directory.

They sign tokens for whoever may read the folder, so they are for development. A system of your own
has an identity provider, and the gateway knows its public keys only.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import OKPAlgorithm

from tidelog.errors import ConfigurationError

FOLDER: Final = "auth"
ISSUER: Final = "tidelog-dev"
AUDIENCE: Final = "tidelog"
ALGORITHM: Final = "EdDSA"
SCOPES: Final = ("customer", "merchant", "operator", "service")
LIFETIME_S: Final = 8 * 3_600

_KEY = "signing-key.pem"
_JWKS = "jwks.json"


def prepare_keys(data: Path) -> dict[str, str]:
    """Make the keys if there are none; the settings of a gateway that knows them."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = folder / _KEY
    if not key.exists():
        _write(key, _new_key())
    public = OKPAlgorithm.to_jwk(_private(data).public_key(), as_dict=True)
    document = {"keys": [{**public, "kid": _kid(public["x"]), "alg": ALGORITHM, "use": "sig"}]}
    _write(folder / _JWKS, json.dumps(document, indent=1).encode())
    return auth_settings(data)


def auth_settings(data: Path) -> dict[str, str]:
    """The settings of a gateway that knows the keys of this data directory."""
    return {
        "TIDELOG_GATEWAY_AUTH": "on",
        "TIDELOG_GATEWAY_JWKS_FILE": str(data.resolve() / FOLDER / _JWKS),
        "TIDELOG_GATEWAY_ISSUER": ISSUER,
        "TIDELOG_GATEWAY_AUDIENCE": AUDIENCE,
    }


def dev_token(
    data: Path, subject: str, scopes: Sequence[str], lifetime_s: float = LIFETIME_S
) -> str:
    """A signed token; ConfigurationError where the stack was never started with `--auth`."""
    key = _private(data)
    public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "scope": " ".join(scopes),
        "iat": now,
        "nbf": now,
        "exp": now + int(lifetime_s),
        "jti": str(uuid.uuid4()),
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": _kid(public["x"])})


def _private(data: Path) -> Ed25519PrivateKey:
    path = data / FOLDER / _KEY
    if not path.exists():
        raise ConfigurationError(f"{path} is not there; start the stack with: ./dev up --auth")
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} is no Ed25519 key; remove it and start again")
    return key


def _new_key() -> bytes:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _kid(public: str) -> str:
    return f"dev-{public[:12]}"


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all, for the owner's eyes only."""
    made = path.with_suffix(".new")
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    made.replace(path)
