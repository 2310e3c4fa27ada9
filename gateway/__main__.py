"""Runs the gateway: `python -m gateway`."""

from __future__ import annotations

import sys

from gateway.app import build
from tidelog.http.server import serve
from tidelog.http.service import Service
from tidelog.logging import get_logger
from tidelog.settings import Settings


def main() -> int:
    """Serve until told to stop; 0 after a clean stop, 1 if it could not start."""
    return serve("gateway", wire)


def wire(settings: Settings) -> Service:
    """The gateway; one without callers' names says so."""
    if settings.gateway_auth == "off":
        get_logger("gateway").warning(
            "authentication is off: whoever reaches this door may do everything",
            address=settings.http_host,
        )
    return build(settings)


if __name__ == "__main__":
    sys.exit(main())
