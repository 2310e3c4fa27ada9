"""HTTP servers as processes of their own, stopped with their parent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import httpx2

from tidelog.embedded.ports import free_port
from tidelog.embedded.process import PROBE_TIMEOUT_S, Launch, Running, start_server

READY_TIMEOUT_S = 60.0
COMMITS = "tidelog_commit_events_count"


class HttpServer:
    """A server that takes its port from an environment variable and answers at /readyz."""

    def __init__(
        self,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        port_variable: str,
        folder: Path,
    ) -> None:
        self.name = name
        self.port = free_port("127.0.0.1")
        self._command = command
        self._environment = {**environment, port_variable: str(self.port)}
        self._log = folder / "logs" / f"{name}-{self.port}.log"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Nothing has to be made."""

    def launch(self) -> Launch:
        """The program: in this folder, with the environment's own settings left out."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("TIDELOG_")
        }
        return Launch(
            command=self._command, log=self._log, environment={**inherited, **self._environment}
        )

    def ready(self) -> bool:
        """Whether it says so."""
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=PROBE_TIMEOUT_S).is_success
        except httpx2.HTTPError:
            return False

    def trouble(self) -> str | None:
        """It says nothing but in its log."""
        return None

    def commits(self) -> int:
        """The transactions of a command service so far, by its metrics; 0 of other servers."""
        lines = httpx2.get(f"{self.url}/metrics", timeout=PROBE_TIMEOUT_S).text.splitlines()
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith(COMMITS)))


def running_server(server: HttpServer) -> Running[HttpServer]:
    """Start it and wait until it is ready."""
    return start_server(server, READY_TIMEOUT_S)
