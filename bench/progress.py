"""How far a peer's process is: a number in a small file that both processes have mapped.

Standard library only: peers of other environments write it too.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_NUMBER = struct.Struct("<q")


class Progress:
    """A count of events. One process adds, another reads; eight aligned bytes are read whole."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_NUMBER.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _NUMBER.size)
        self.count = self.read()

    def add(self, events: int) -> None:
        """So many more are done."""
        self.count += events
        _NUMBER.pack_into(self._map, 0, self.count)

    def read(self) -> int:
        """What the other process has written."""
        found: int = _NUMBER.unpack_from(self._map)[0]
        return found
