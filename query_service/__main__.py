"""Runs the query service: `python -m query_service`."""

from __future__ import annotations

from query_service.app import build
from tidelog.http import server
from tidelog.logging import configure_logging
from tidelog.settings import load_settings


def main() -> None:
    """Serve until told to stop."""
    settings = load_settings()
    configure_logging(settings.log_level, "query_service", settings.instance)
    server.run(build(settings), settings)


if __name__ == "__main__":
    main()
