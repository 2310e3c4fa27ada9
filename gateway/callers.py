"""Who sends a request: told by a token that was signed for it, or by the key of a machine.

What is wrong with it is not told in detail to whoever sent it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from gateway.api_keys import ApiKeyReader, read_api_keys
from gateway.caller import LOCAL, Caller
from gateway.tokens import TokenReader, read_jwks
from gateway.watched import WatchedFile
from tidelog.errors import ConfigurationError
from tidelog.http.errors import HeadersTooLarge, Unauthorized
from tidelog.http.ports import Headers
from tidelog.settings import Settings

CREDENTIALS_BYTES_MAX: Final = 8 * 1024

_SEND = "Send Authorization: Bearer <token>, or Authorization: ApiKey <key>."


class Callers(Protocol):
    """Tells who sends a request."""

    def of(self, headers: Headers) -> Caller:
        """The caller; Unauthorized, or HeadersTooLarge where the token is."""
        ...


class Everyone:
    """Authentication is off: everyone is `local` and may do everything."""

    def of(self, headers: Headers) -> Caller:  # noqa: ARG002 - nobody is asked
        """LOCAL."""
        return LOCAL


class KnownCallers:
    """Those who show a token or a key that holds."""

    def __init__(self, tokens: TokenReader | None, api_keys: ApiKeyReader | None) -> None:
        self._tokens = tokens
        self._api_keys = api_keys

    def of(self, headers: Headers) -> Caller:
        """The caller; Unauthorized, or HeadersTooLarge where the token is."""
        given = headers.get(b"authorization", b"")
        if len(given) > CREDENTIALS_BYTES_MAX:
            raise HeadersTooLarge(f"Authorization may have {CREDENTIALS_BYTES_MAX} bytes.")
        scheme, _, credentials = given.strip(b" \t").partition(b" ")
        if scheme.lower() == b"bearer" and self._tokens is not None:
            return self._tokens.caller(credentials.lstrip(b" "))
        if scheme.lower() == b"apikey" and self._api_keys is not None:
            return self._api_keys.caller(credentials.lstrip(b" "))
        raise Unauthorized(_SEND)


def callers_of(settings: Settings) -> Callers:
    """What the settings ask for; ConfigurationError where they do not go together."""
    if settings.gateway_auth == "off":
        return Everyone()
    jwks, listed = settings.gateway_jwks_file, settings.gateway_api_keys_file
    if not jwks and not listed:
        raise ConfigurationError(
            "TIDELOG_GATEWAY_AUTH is on: set TIDELOG_GATEWAY_JWKS_FILE, "
            "TIDELOG_GATEWAY_API_KEYS_FILE or both"
        )
    if jwks and not settings.gateway_issuer:
        raise ConfigurationError("TIDELOG_GATEWAY_JWKS_FILE needs TIDELOG_GATEWAY_ISSUER")
    return KnownCallers(_tokens(settings) if jwks else None, _api_keys(listed) if listed else None)


def _tokens(settings: Settings) -> TokenReader:
    return TokenReader(
        WatchedFile(Path(settings.gateway_jwks_file), read_jwks),
        issuer=settings.gateway_issuer,
        audience=settings.gateway_audience,
    )


def _api_keys(path: str) -> ApiKeyReader:
    return ApiKeyReader(WatchedFile(Path(path), read_api_keys))
