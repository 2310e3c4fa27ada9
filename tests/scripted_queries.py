"""A query service whose rows and positions are what a test says."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from tests.gateway_world import BACKGROUND, live
from tidelog.http.asgi import Receive, Scope, Send


@dataclass
class Scripted:
    """A query service whose rows and positions are what the test says."""

    as_of: str = "inventory:0:5"
    body: bytes = b'{"sku":"tea"}'
    talks: bool = True
    """Whether it says all the time that its database answers."""

    refuses: bool = False
    """Whether it refuses to tell positions."""

    held: str = ""
    """The path whose answer waits, after its rows were read, until it is let go."""

    reading: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    opened: int = 0

    def __post_init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: set[asyncio.Queue[bytes | None]] = set()

    def tell(self, event: str, data: Any) -> None:
        """Tell every gateway that listens."""
        self._put(b"id: -\nevent: %b\ndata: %b\n\n" % (event.encode(), json.dumps(data).encode()))

    def cut(self) -> None:
        """End every stream."""
        self._put(None)

    def _put(self, frame: bytes | None) -> None:
        assert self._loop is not None
        for stream in [*self._streams]:
            self._loop.call_soon_threadsafe(stream.put_nowait, frame)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        self._loop = asyncio.get_running_loop()
        if scope["path"] == "/positions/live":
            await self._positions(receive, send)
            return
        if scope["path"] != BACKGROUND:
            self.asked.append(scope["path"])
        body, as_of = self.body, self.as_of
        if scope["path"] == self.held:
            self.reading.set()
            await asyncio.to_thread(self.let_go.wait, 30)
        headers = [
            (b"etag", b'"1"'),
            (b"x-as-of", as_of.encode()),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _positions(self, receive: Receive, send: Send) -> None:
        self.opened += 1
        status = 503 if self.refuses else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        stream: asyncio.Queue[bytes | None] = asyncio.Queue()
        if not self.refuses:
            self._streams.add(stream)
            models = {"stock_level": {"positions": self.as_of}}
            self.tell("positions", {"partitions": 1, "read_models": models})
            leaving = asyncio.create_task(self._until_gone(receive, stream))
            await self._pass_on(stream, send)
            self._streams.discard(stream)
            leaving.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _until_gone(self, receive: Receive, stream: asyncio.Queue[bytes | None]) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        stream.put_nowait(None)

    async def _pass_on(self, stream: asyncio.Queue[bytes | None], send: Send) -> None:
        while True:
            try:
                frame = await asyncio.wait_for(stream.get(), 0.3)
            except TimeoutError:
                frame = b"event: alive\ndata: {}\n\n" if self.talks else b":\n\n"
            if frame is None:
                return
            await send({"type": "http.response.body", "body": frame, "more_body": True})
