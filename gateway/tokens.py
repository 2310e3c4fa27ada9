"""Signed tokens (JWT, RFC 7519) of people and programs.

Which algorithm a key signs with is said by the key and by nobody else: what a token's header says
about it is not believed. Only public keys are known here, so no token can be made with them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import jwt

from gateway.caller import Caller, is_subject, person
from gateway.watched import WatchedFile
from tidelog.errors import ConfigurationError
from tidelog.http.errors import Unauthorized

ALGORITHMS: Final = frozenset(("EdDSA", "ES256", "ES384", "PS256", "RS256"))
RSA_BITS_MIN: Final = 2_048
KEYS_MAX: Final = 100
LEEWAY_S: Final = 5.0
"""By how much the clock of whoever signs may differ from ours."""

KNOWN_MAX: Final = 10_000
"""Tokens whose signature was checked already, by their hash."""

_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "k"))


class VerifyingKey(NamedTuple):
    """A public key and the one algorithm that it is for."""

    algorithm: str
    key: Any


Keys = Mapping[str, VerifyingKey]


def read_jwks(raw: bytes) -> Keys:
    """The keys of a JWKS file (RFC 7517) by `kid`; ConfigurationError says what is wrong."""
    try:
        listed = json.loads(raw)["keys"]
        keys = {key["kid"]: _read_key(key) for key in listed}
    except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
        raise ConfigurationError(f"this is no JWKS: {type(error).__name__}: {error}") from None
    if not 0 < len(keys) == len(listed) <= KEYS_MAX:
        raise ConfigurationError(f"a JWKS has 1 to {KEYS_MAX} keys, each with a kid of its own")
    return keys


def _read_key(key: Mapping[str, Any]) -> VerifyingKey:
    algorithm, kid = key.get("alg"), key["kid"]
    if not isinstance(kid, str) or algorithm not in ALGORITHMS:
        allowed = ", ".join(sorted(ALGORITHMS))
        raise ConfigurationError(f"each key has a kid and an alg, one of {allowed}")
    if _PRIVATE & key.keys():
        raise ConfigurationError(f"the key {kid!r} is not public; only public keys belong here")
    read = jwt.PyJWK(dict(key), algorithm=algorithm).key
    if key.get("kty") == "RSA" and read.key_size < RSA_BITS_MIN:
        raise ConfigurationError(f"the key {kid!r} has fewer than {RSA_BITS_MIN} bits")
    return VerifyingKey(algorithm, read)


class _Known(NamedTuple):
    caller: Caller
    expires_at: float
    key: VerifyingKey


class TokenReader:
    """Tells whose token it is. A signature is checked once for each token and key."""

    def __init__(
        self,
        keys: WatchedFile[Keys],
        *,
        issuer: str,
        audience: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._now = now
        self._known: OrderedDict[bytes, tuple[str, _Known]] = OrderedDict()

    def caller(self, token: bytes) -> Caller:
        """Whose token it is; Unauthorized where it does not hold."""
        digest = hashlib.sha256(token).digest()
        found = self._known.get(digest)
        if found is not None:
            kid, known = found
            if known.expires_at > self._now() and self._keys.content().get(kid) is known.key:
                return known.caller
            del self._known[digest]
        kid, known = self._verified(token)
        self._known[digest] = (kid, known)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return known.caller

    def _verified(self, token: bytes) -> tuple[str, _Known]:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._key(kid) if isinstance(kid, str) else None
            if key is None:
                raise Unauthorized("The token does not hold.")
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            expires_at = float(claims["exp"])
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The token has expired. Get a new one.") from None
        except (jwt.PyJWTError, ValueError, OverflowError, TypeError):
            raise Unauthorized("The token does not hold.") from None
        return str(kid), _Known(_caller(claims), expires_at, key)

    def _key(self, kid: str) -> VerifyingKey | None:
        return self._keys.content().get(kid) or self._keys.content(fresh=True).get(kid)


def _caller(claims: Mapping[str, Any]) -> Caller:
    subject, scope = claims["sub"], claims.get("scope", "")
    if not isinstance(subject, str) or not is_subject(subject) or not isinstance(scope, str):
        raise Unauthorized("The token does not hold.")
    return person(subject, scope.split(" "))
