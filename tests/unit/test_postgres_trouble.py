"""What PostgreSQL says about a connection, and the settings that are named with it."""

from __future__ import annotations

import psycopg
import pytest

from tidelog.postgres.trouble import reason

HUNG_UP = psycopg.OperationalError(
    'connection failed: connection to server at "host", port 1 failed: '
    "server closed the connection unexpectedly\n\tThis probably means …"
)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("TIDELOG_POSTGRES_SSL_MODE", "require"), ("TIDELOG_POSTGRES_SSL_CA_FILE", "ca.pem")],
)
def test_a_server_that_hangs_up_on_an_encrypted_connection_may_want_a_certificate(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    monkeypatch.setenv(setting, value)
    assert "look at TIDELOG_POSTGRES_SSL_CERTIFICATE_FILE" in reason(HUNG_UP)


def test_without_encryption_it_has_just_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDELOG_POSTGRES_SSL_MODE", raising=False)
    assert reason(HUNG_UP).endswith("closed the connection unexpectedly")


def test_a_refusal_in_plain_words_names_its_setting() -> None:
    error = psycopg.OperationalError('FATAL:  password authentication failed for user "shop"')
    assert "TIDELOG_POSTGRES_PASSWORD_FILE" in reason(error)
