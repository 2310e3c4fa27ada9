"""The client of a schema registry over HTTP: ours, or any that speaks Confluent's REST API.

An id names one schema for ever. So ids are cached for ever (they work while the registry is
down), and each id is pinned to the fingerprint of its schema: an answer that gives a known id
another schema is refused, whoever gives it. Hand `pins` of an earlier run to a new client to
make that hold over restarts.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import quote

import httpx2

from tidelog.errors import CodecError, Unavailable
from tidelog.registry.canonical import fingerprint
from tidelog.registry.errors import ErrorCode, RegistryRefusal, SchemaRefused
from tidelog.registry.lints import checked_text
from tidelog.registry.port import MEDIA_TYPE
from tidelog.security import load_security, variable

ATTEMPTS_MAX = 5
BACKOFF_S = 0.05
BACKOFF_S_MAX = 1.0
TIMEOUT_S = 5.0
CONNECTIONS_MAX = 8
ANSWER_BYTES_MAX = 2 * 1024 * 1024
_RETRIED = frozenset({429, 500, 502, 503, 504})
_NOT_ALLOWED = frozenset({401, 403})


class RegistryClient:
    """A SchemaRegistry over HTTP; safe to use from several threads; close it when done."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        attempts_max: int = ATTEMPTS_MAX,
        pins: Mapping[int, str] | None = None,
    ) -> None:
        assert attempts_max >= 1, "a request is sent at least once"
        self._attempts_max = attempts_max
        self._http = httpx2.Client(
            base_url=url,
            timeout=httpx2.Timeout(timeout_s),
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX),
            headers={"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE},
            # Whom to trust and who we are, as every client of the registry has it.
            **_connection(url),
            # A registry is an address in the settings; a proxy or a redirect is never meant.
            trust_env=False,
            follow_redirects=False,
        )
        self._lock = threading.Lock()
        self._texts: dict[int, str] = {}
        self._ids: dict[tuple[str, str], int] = {}
        self._pins: dict[int, str] = dict(pins or {})

    def register(self, subject: str, schema_json: str) -> int:
        """The id of the schema, registered under the subject if it is not there yet."""
        print_ = _checked_fingerprint(schema_json)
        known = self._ids.get((subject, print_))
        if known is not None:
            return known
        answer = self._post(f"/subjects/{quote(subject, safe='')}/versions", schema_json)
        return self._remember(subject, print_, schema_json, _whole(answer, "id"))

    def schema(self, schema_id: int) -> object:
        """The schema of an id as JSON; CodecError if the id is unknown or breaks a rule."""
        text = self._texts.get(schema_id)
        if text is None:
            text = _string(self._send("GET", f"/schemas/ids/{schema_id}"), "schema")
            self._pin(schema_id, _checked_fingerprint(text), text)
        return json.loads(text)

    def lookup(self, subject: str, schema_json: str) -> int | None:
        """The id of the schema if the subject has it."""
        print_ = _checked_fingerprint(schema_json)
        known = self._ids.get((subject, print_))
        if known is not None:
            return known
        try:
            answer = self._post(f"/subjects/{quote(subject, safe='')}", schema_json)
        except RegistryRefusal as error:
            if error.code in (ErrorCode.SUBJECT_NOT_FOUND, ErrorCode.SCHEMA_NOT_FOUND):
                return None
            raise
        return self._remember(subject, print_, schema_json, _whole(answer, "id"))

    def check(self, subject: str, schema_json: str) -> list[str]:
        """Why the schema could not be registered, as sentences; [] if it could."""
        try:
            checked_text(schema_json)
        except SchemaRefused as error:
            return [f"Invalid schema: {error}"]
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions?verbose=true"
        answer = self._post(path, schema_json)
        messages = answer.get("messages", [])
        if answer.get("is_compatible") is True:
            return []
        if not isinstance(messages, list) or not messages:
            return ["The schema is incompatible with an earlier version of its subject."]
        return [str(message) for message in messages]

    def pins(self) -> dict[int, str]:
        """Every id seen so far with the fingerprint of its schema."""
        with self._lock:
            return dict(self._pins)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _remember(self, subject: str, print_: str, text: str, schema_id: int) -> int:
        self._pin(schema_id, print_, text)
        with self._lock:
            self._ids[subject, print_] = schema_id
        return schema_id

    def _pin(self, schema_id: int, print_: str, text: str) -> None:
        with self._lock:
            if self._pins.setdefault(schema_id, print_) != print_:
                raise CodecError(
                    f"The registry gives id {schema_id} another schema than before "
                    f"({print_[:12]} instead of {self._pins[schema_id][:12]}). An id never "
                    "changes its schema: find out who replaced the registry's log."
                )
            self._texts.setdefault(schema_id, text)

    def _post(self, path: str, schema_json: str) -> dict[str, object]:
        return self._send("POST", path, {"schema": schema_json})

    def _send(
        self, method: str, path: str, body: dict[str, str] | None = None
    ) -> dict[str, object]:
        """Send with bounded retries; every request of the client may be sent twice."""
        trouble = "no answer"
        for attempt in range(self._attempts_max):
            if attempt:
                time.sleep(random.uniform(0, min(BACKOFF_S * 2**attempt, BACKOFF_S_MAX)))
            try:
                response = self._http.request(method, path, json=body)
            except httpx2.TransportError as error:
                trouble = _trouble(error)
                continue
            if response.status_code in _NOT_ALLOWED:
                raise Unavailable(
                    f"The schema registry at {self._http.base_url} refuses our user "
                    f"(HTTP {response.status_code}): look at {variable('registry_username')} and "
                    f"{variable('registry_password')} (or …_FILE)."
                )
            if response.status_code not in _RETRIED:
                return _answer(response)
            trouble = f"HTTP {response.status_code}"
        raise Unavailable(
            f"The schema registry at {self._http.base_url} does not answer "
            f"({trouble}, {self._attempts_max} attempts). Is it up?"
        )


def _connection(url: str) -> dict[str, Any]:
    """Who we are, and over TLS whom we trust; ConfigurationError where a setting is no good."""
    security = load_security()
    options: dict[str, Any] = {}
    if url.startswith("https:"):
        options["verify"] = security.registry_context()
    if security.registry_username:
        options["auth"] = (security.registry_username, security.secret("registry_password"))
    return options


def _trouble(error: httpx2.TransportError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return (
            "its certificate is for another host, or not signed by whom "
            f"{variable('registry_ca_file')} names"
        )
    return type(error).__name__


def _checked_fingerprint(schema_json: str) -> str:
    checked_text(schema_json)
    return fingerprint(schema_json)


def _answer(response: httpx2.Response) -> dict[str, object]:
    if len(response.content) > ANSWER_BYTES_MAX:
        raise CodecError("The schema registry's answer is too large to be one.")
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        _not_a_registry()
    if not isinstance(answer, dict):
        _not_a_registry()
    if response.status_code == 200:
        return answer
    raise RegistryRefusal(_whole(answer, "error_code"), _string(answer, "message"))


def _whole(answer: dict[str, object], name: str) -> int:
    value = answer.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        _not_a_registry()
    return value


def _string(answer: dict[str, object], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str):
        _not_a_registry()
    return value


def _not_a_registry() -> NoReturn:
    raise CodecError("The schema registry's answer has not the form of Confluent's REST API.")
