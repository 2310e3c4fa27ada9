"""A client that costs little: one keep-alive connection, one request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

END_OF_HEAD = b"\r\n\r\n"


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: Any


class Connection:
    """One connection; a task uses it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """Send a request, await its answer."""
        lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join(lines).encode() + END_OF_HEAD + body)
        head = (await self._reader.readuntil(END_OF_HEAD)).decode("latin-1").lower()
        _, _, rest = head.partition("content-length:")
        content = await self._reader.readexactly(int(rest.partition("\r\n")[0]))
        return Answer(int(head.split(" ", 2)[1]), msgspec.json.decode(content))

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        await self._writer.wait_closed()


async def connected(port: int) -> Connection:
    """A connection to this machine."""
    return Connection(*await asyncio.open_connection("127.0.0.1", port))
