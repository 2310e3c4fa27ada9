"""Runs the query service: `python -m query_service`."""

from __future__ import annotations

import sys

from query_service.app import build
from tidelog.http.server import serve


def main() -> int:
    """Serve until a signal; 0 after a clean stop, 1 if it could not start."""
    return serve("query_service", build)


if __name__ == "__main__":
    sys.exit(main())
