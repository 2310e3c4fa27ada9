"""A request as the handlers see it, and the one place where untrusted bytes become one.

Messages never repeat the input: they name fields, bounds and rules.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from starlette.requests import ClientDisconnect, Request

from tidelog.registry.errors import ErrorCode, RegistryRefusal
from tidelog.registry.port import MEDIA_TYPE

BODY_BYTES_MAX = 1024 * 1024
BODY_SECONDS_MAX = 10.0
_MEDIA_TYPES = (
    MEDIA_TYPE,
    "application/vnd.schemaregistry+json",
    "application/json",
    "application/octet-stream",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What a handler may look at."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, object]

    def flag(self, name: str) -> bool:
        """A query parameter that is true or false (the default)."""
        value = self.query.get(name, "false").lower()
        if value not in ("true", "false"):
            raise RegistryRefusal(ErrorCode.INVALID_BODY, f"?{name} must be true or false")
        return value == "true"

    def text(self, name: str) -> str:
        """A member of the body that must be a string."""
        value = self.body.get(name)
        if not isinstance(value, str):
            raise RegistryRefusal(ErrorCode.INVALID_BODY, f"'{name}' must be a string")
        return value


async def read_body(request: Request, allowed: frozenset[str]) -> dict[str, object]:
    """The body as a JSON object with no member but the allowed ones."""
    kind = request.headers.get("content-type", MEDIA_TYPE).partition(";")[0].strip().lower()
    if kind not in _MEDIA_TYPES:
        raise RegistryRefusal(ErrorCode.WRONG_MEDIA_TYPE, f"Send {MEDIA_TYPE}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RegistryRefusal(ErrorCode.WRONG_MEDIA_TYPE, "Send the body without encoding")
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            raw = await _bounded(request)
    except TimeoutError:
        raise RegistryRefusal(408, f"The body took more than {BODY_SECONDS_MAX:g} s") from None
    except ClientDisconnect:
        raise RegistryRefusal(ErrorCode.MALFORMED, "The body was cut off") from None
    body = _json(raw)
    if not isinstance(body, dict):
        raise RegistryRefusal(ErrorCode.INVALID_BODY, "The body must be a JSON object")
    if set(body) - allowed:
        known = ", ".join(sorted(allowed))
        raise RegistryRefusal(
            ErrorCode.INVALID_BODY, f"The body has an unknown member; known: {known}"
        )
    return body


async def _bounded(request: Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise RegistryRefusal(
                ErrorCode.TOO_LARGE, f"The body is larger than {BODY_BYTES_MAX} bytes"
            )
        chunks.append(chunk)
    return b"".join(chunks)


def _json(raw: bytes) -> object:
    try:
        text = raw.decode()
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise RegistryRefusal(
            ErrorCode.MALFORMED, "The body is not well-formed JSON in UTF-8"
        ) from None
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN or Infinity")
