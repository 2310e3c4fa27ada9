"""The books of a simulator: what it has done, one JSON document per line, kept over restarts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec


class Books:
    """An append-only file. A line that was not finished when the process died is cut off."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._path = path

    def read(self) -> Iterator[dict[str, Any]]:
        """Everything that was written, in order."""
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._path, whole)
        for line in content[:whole].splitlines():
            yield msgspec.json.decode(line)

    def write(self, entry: dict[str, Any]) -> None:
        """Append; the operating system has it when this returns."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
