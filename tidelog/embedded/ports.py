"""Free TCP ports, and files that keep what a data directory was given."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidelog.errors import ConfigurationError

# Below the ports that the kernel hands to outgoing connections, so that no client of ours sits
# on a server's port while that server restarts.
PORT_MIN = 15_000
PORT_MAX = 32_000
ATTEMPTS_MAX = 200


def free_port(host: str = "127.0.0.1", taken: frozenset[int] = frozenset()) -> int:
    """A port that nobody listens on now and that is not in `taken`."""
    for _ in range(ATTEMPTS_MAX):
        port = random.randint(PORT_MIN, PORT_MAX)
        if port not in taken and is_free(host, port):
            return port
    raise ConfigurationError(f"no free TCP port on {host} between {PORT_MIN} and {PORT_MAX}")


def kept_or_free(host: str, kept: object, taken: frozenset[int] = frozenset()) -> int:
    """The kept port if there is one that can still be had, else another."""
    port = int(str(kept or 0))
    if port and port not in taken and is_free(host, port):
        return port
    return free_port(host, taken)


def is_free(host: str, port: int) -> bool:
    """Whether this process could listen on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def accepts(host: str, port: int, timeout_s: float) -> bool:
    """Whether somebody accepts connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; an empty one when there is no file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{path} is damaged ({error}); remove it") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path} is damaged (not an object); remove it")
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file at one blow, readable by its owner only (it may hold a password)."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
