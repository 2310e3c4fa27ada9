"""API keys of machines: long random texts, of which a file has the SHA-256 only.

{"keys": [{"name": "erp", "sha256": "<hex>", "scopes": ["merchant"],
           "expires": "2027-01-01T00:00:00Z"}]}

A key is as random as its hash is long, so a plain hash tells nobody anything; it is looked up by
its hash, so how long that takes tells nothing of the key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from gateway.caller import Caller, machine
from gateway.watched import WatchedFile
from tidelog.errors import ConfigurationError
from tidelog.http.errors import Unauthorized

_FORM = re.compile(rb"tlk_[A-Za-z0-9_-]{43}")

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~-]{1,64}(?![\s\S])")]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?![\s\S])")]


class ListedKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of the file."""

    name: Name
    sha256: Hash
    scopes: Annotated[
        list[Literal["customer", "merchant", "operator", "service"]], Meta(min_length=1)
    ]
    expires: Annotated[datetime, Meta(tz=True)] | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: Annotated[list[ListedKey], Meta(max_length=10_000)]


class KnownKey(NamedTuple):
    """A machine, and until when its key holds (None: for ever)."""

    caller: Caller
    expires: datetime | None


ApiKeys = Mapping[str, KnownKey]


def read_api_keys(raw: bytes) -> ApiKeys:
    """The machines by the hash of their key; ConfigurationError says what is wrong."""
    try:
        listed = msgspec.json.decode(raw, type=_File).keys
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"this is no list of API keys: {error}") from None
    keys = {key.sha256: KnownKey(machine(key.name, key.scopes), key.expires) for key in listed}
    if len(keys) != len(listed):
        raise ConfigurationError("two API keys have the same hash")
    return keys


class ApiKeyReader:
    """Tells which machine a key is of."""

    def __init__(
        self,
        keys: WatchedFile[ApiKeys],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys = keys
        self._now = now

    def caller(self, key: bytes) -> Caller:
        """Whose key it is; Unauthorized where it does not hold."""
        found = None
        if _FORM.fullmatch(key):
            found = self._keys.content().get(hashlib.sha256(key).hexdigest())
        if found is None or (found.expires is not None and found.expires <= self._now()):
            raise Unauthorized("The API key does not hold.")
        return found.caller
