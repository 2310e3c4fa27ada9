"""A service as a process: it says where it listens, and it stops in order."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SERVICE = """
import asyncio, sys
from contextlib import asynccontextmanager
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tidelog.http.server import run
from tidelog.http.service import build_service
from tidelog.logging import configure_logging, get_logger
from tidelog.settings import Settings

def say(text):
    print(text, flush=True)

async def slow(request):
    say("begun")
    await asyncio.sleep(1)
    say("answered")
    return PlainTextResponse("late")

@asynccontextmanager
async def engine():
    say("engine started")
    yield
    say("engine stopped")

configure_logging("info", "test", "1")
app = build_service(
    name="test", version="1", routes=[Route("/slow", slow)], lifespan=engine,
    registry=CollectorRegistry(),
)
run(app, Settings(), on_listening=lambda url: say(url))
get_logger("test").info("done %s", "and out")
"""


def test_sigterm_finishes_what_is_in_flight_then_stops_the_engine_and_exits_0() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stdout.readline().strip()
        port = int(url.rsplit(":", 1)[1])
        assert process.stdout.readline() == "engine started\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGTERM)
            assert _is_refused(port)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        rest = process.stdout.read()
        logs = process.stderr.read()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()
    assert rest == "answered\nengine stopped\n"
    lines = [json.loads(line) for line in logs.splitlines()]
    assert lines[-1]["event"] == "done and out"
    assert {line["service"] for line in lines} == {"test"}
    assert any(line.get("url") == url for line in lines)


def _is_refused(port: int) -> bool:
    deadline = time.monotonic() + 0.9
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return True
        time.sleep(0.02)
    return False
