"""A service of the stack: `python -m <module>`, configured by its environment, ready by HTTP."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import tidelog
from tidelog.embedded.ports import accepts
from tidelog.embedded.process import PROBE_TIMEOUT_S, Launch

HTTP_OK = 200


@dataclass(frozen=True, kw_only=True)
class Service:
    """One line of the table of services (stack.py)."""

    name: str
    module: str
    depends_on: tuple[str, ...]
    listed_as: str | None = None  # the key of dev.json that holds its URL
    grpc: bool = False  # whether each instance listens for gRPC too


@dataclass(frozen=True, kw_only=True)
class ServiceServer:
    """One instance of a service on a port of its own."""

    service: Service
    instance: str
    host: str
    port: int
    settings: Mapping[str, str]
    state_dir: Path
    log: Path
    grpc_port: int | None = None
    drain_ms: int = 0

    @property
    def name(self) -> str:
        """`command_service-1`."""
        return f"{self.service.name}-{self.instance}"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    @property
    def grpc(self) -> str | None:
        """Where it listens for gRPC, if it does: host:port."""
        return None if self.grpc_port is None else f"{self.host}:{self.grpc_port}"

    def prepare(self) -> None:
        """Make the folder of its checkpoints."""
        self.state_dir.mkdir(parents=True, exist_ok=True)

    def launch(self) -> Launch:
        """The service as a program."""
        return Launch(
            command=(sys.executable, "-m", self.service.module),
            log=self.log,
            environment=self.environment(),
            # `-m` looks in the working directory first: the checkout, wherever `up` was called.
            folder=Path(tidelog.__file__).parent.parent,
        )

    def environment(self) -> dict[str, str]:
        """What the service reads at its start, over what this process was given."""
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **self.settings,
            "TIDELOG_INSTANCE": self.instance,
            "TIDELOG_HTTP_HOST": self.host,
            "TIDELOG_HTTP_PORT": str(self.port),
            "TIDELOG_STATE_DIR": str(self.state_dir),
            "TIDELOG_DRAIN_MS": str(self.drain_ms),
            **({} if self.grpc_port is None else {"TIDELOG_GRPC_PORT": str(self.grpc_port)}),
        }

    def ready(self) -> bool:
        """Whether GET /readyz answers 200."""
        return accepts(self.host, self.port, PROBE_TIMEOUT_S) and self._readyz()[0] == HTTP_OK

    def trouble(self) -> str | None:
        """What is not well by GET /readyz?verbose."""
        _, body = self._readyz("?verbose")
        try:
            checks = json.loads(body)["checks"]
            found = [str(check["detail"]) for check in checks if not check["ready"]]
        except (ValueError, LookupError, TypeError):
            return None
        return "; ".join(found) or None

    def _readyz(self, query: str = "") -> tuple[int, bytes]:
        connection = HTTPConnection(self.host, self.port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", f"/readyz{query}")
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, HTTPException):
            return 0, b""
        finally:
            connection.close()
