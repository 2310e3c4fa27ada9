"""What PostgreSQL's own words mean for whoever runs this: one line, and the settings to look at."""

from __future__ import annotations

from typing import Final

from tidelog.security import load_security, variable

_PASSWORD: Final = f"{variable('postgres_dsn')} and {variable('postgres_password_file')}"
_AUTHORITY: Final = f"{variable('postgres_ssl_ca_file')} and the host in {variable('postgres_dsn')}"
_MODE: Final = variable("postgres_ssl_mode")
_CERTIFICATE: Final = variable("postgres_ssl_certificate_file")
_KEY: Final = variable("postgres_ssl_key_file")

# By libpq's and the server's sentences; they have been the same for many versions.
_REFUSALS: Final = (
    ("password authentication failed", _PASSWORD),
    ("no password supplied", _PASSWORD),
    ("certificate verify failed", _AUTHORITY),
    ("server certificate for", _AUTHORITY),
    ("root certificate", _AUTHORITY),
    ("certificate required", _CERTIFICATE),
    ("valid client certificate", _CERTIFICATE),
    ("private key file", _KEY),
    ("does not support SSL", _MODE),
    ("no pg_hba.conf entry", f"{_MODE} and {_CERTIFICATE}"),
    ("SSL error", f"{_MODE} and {_CERTIFICATE}"),  # hung up on us: by its end, for what we showed
)

_ENCRYPTED: Final = ("require", "verify-ca", "verify-full")

# The server says why and hangs up. Where what we send meets the closed end, its word is lost.
_HUNG_UP: Final = ("connection failed", "closed the connection unexpectedly")


def reason(error: Exception) -> str:
    """The first line of the error; where the server refuses us, with the settings to look at."""
    line = str(error).partition("\n")[0]
    for sign, settings in _REFUSALS:
        if sign in line:
            return f"{line} (look at {settings})"
    if all(sign in line for sign in _HUNG_UP) and _shows_no_certificate():
        return f"{line} (if it is not just starting, look at {_CERTIFICATE})"
    return line


def _shows_no_certificate() -> bool:
    security = load_security()
    encrypted = security.postgres_ssl_ca_file or security.postgres_ssl_mode in _ENCRYPTED
    return bool(encrypted) and not security.postgres_ssl_certificate_file
