"""The stack as a user runs it: found by dev.json, mended after a kill, stopped without a trace.

Tiny stand-ins take the services' places; PostgreSQL is real, and Kafka where it matters.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.containers import kafka_answers, postgres_answers
from tests.fixtures.servers import server_folder
from tidelog.embedded.process import start_mark

DEADLINE_S = 60.0
STAND_IN = """
import os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
ILL = Path(__file__).with_name("ill")
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        ill = ILL.exists()
        self.send_response(503 if ill else 200); self.end_headers()
        self.wfile.write(ILL.read_bytes() if ill else b"{}")
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
HTTPServer((os.environ["TIDELOG_HTTP_HOST"], int(os.environ["TIDELOG_HTTP_PORT"])), Answer
).serve_forever()
"""
RUNNER = """
import sys
from pathlib import Path
from tidelog.embedded.service import Service
from tidelog.embedded.stack import Options, run
run(
    Options(
        data=Path(sys.argv[1]),
        fresh="--fresh" in sys.argv,
        with_seed=False,
        services=(
            Service(name="registry", module="stand_in", depends_on=(), listed_as="registry"),
            Service(name="query_service", module="stand_in", depends_on=("postgres",),
                    listed_as="query"),
            Service(name="gateway", module="stand_in", depends_on=("query_service",),
                    listed_as="gateway"),
        ),
        external={"registry": "http://127.0.0.1:1"}
        | ({} if "--kafka" in sys.argv else {"kafka": "127.0.0.1:1"}),
    ),
    lambda text: print(text, file=sys.stderr, flush=True),
    lambda content: print("ready", flush=True),
)
"""

JOINER = """
import sys
from pathlib import Path
from tidelog.cli.run import become, further_instance
from tidelog.embedded.data_dir import DataDirectory
from tidelog.embedded.service import Service
dev = Path(sys.argv[1])
service = Service(name="query_service", module="stand_in", depends_on=(), grpc=True)
become(further_instance(service, dev), DataDirectory(dev.parent))
"""


@dataclass(frozen=True)
class Up:
    """A supervisor that runs."""

    process: subprocess.Popen[str]
    data: Path

    def dev(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.data / "dev.json").read_text())
        return content

    def pid(self, name: str) -> int:
        pids = {entry["name"]: int(entry["pid"]) for entry in self.dev()["processes"]}
        return pids.get(name, 0)

    def listed(self, pid: int) -> dict[str, Any] | None:
        """The line of the process with this pid."""
        return next((entry for entry in self.dev()["processes"] if entry["pid"] == pid), None)


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        (made / "stand_in.py").write_text(STAND_IN)
        (made / "runner.py").write_text(RUNNER)
        (made / "joiner.py").write_text(JOINER)
        yield made


def test_a_stack_is_found_mended_and_stopped(folder: Path) -> None:
    with up(folder, "--kafka") as stack:
        dev = stack.dev()
        assert get(dev["gateway"]["url"] + "/readyz") == 200
        assert dev["registry"] == {"url": "http://127.0.0.1:1"}
        assert dev["mail"] is None
        killed = {stack.pid("postgres"), stack.pid("kafka")}

        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not {0, *killed} & {stack.pid("postgres"), stack.pid("kafka")})

        until(lambda: postgres_answers(dev["postgres"]["dsn"]))
        until(lambda: kafka_answers(dev["kafka"]["bootstrap_servers"]))
        assert stack.dev()["gateway"] == dev["gateway"]
        pids = [entry["pid"] for entry in stack.dev()["processes"]]
        stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(DEADLINE_S) == 0
    assert not (stack.data / "dev.json").exists()
    assert [start_mark(pid) for pid in pids] == [None] * 4


def test_a_stack_that_waits_says_why_and_can_be_found_meanwhile(folder: Path) -> None:
    checks = [{"name": "a", "ready": False, "detail": "adopt it"}, {"name": "b", "ready": True}]
    (folder / "ill").write_text(json.dumps({"status": "waiting", "checks": checks}))
    process = launch(folder)
    assert process.stderr is not None
    try:
        while "is not ready" not in (said := process.stderr.readline()):
            assert process.poll() is None, said
        assert said == "query_service-1 is not ready: adopt it\n"
        assert not (folder / "data" / "dev.json").exists()
        starting = json.loads((folder / "data" / "starting.json").read_text())
        assert postgres_answers(starting["postgres"]["dsn"])
        (folder / "ill").unlink()
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert not (folder / "data" / "starting.json").exists()
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


def test_a_second_stack_on_the_same_data_is_refused(folder: Path) -> None:
    with up(folder) as stack:
        second = launch(folder, "--fresh")
        _, said = second.communicate(timeout=DEADLINE_S)

        assert second.returncode == 1
        assert f"a stack runs on {stack.data} already (pid {stack.process.pid})" in said
        assert stack.process.poll() is None


def test_what_a_killed_stack_left_is_stopped_by_the_next(folder: Path) -> None:
    with up(folder) as first:
        gateway, url = first.pid("gateway"), first.dev()["gateway"]["url"]
        mark = start_mark(gateway)
        os.kill(gateway, signal.SIGSTOP)  # it will not hear its parent's death
        first.process.kill()
        first.process.wait()

    with up(folder) as second:
        assert start_mark(gateway) != mark
        assert second.dev()["gateway"]["url"] == url


def test_an_instance_that_joins_is_listed_as_long_as_it_lives(folder: Path) -> None:
    with up(folder) as stack:
        joiner = run(folder, "joiner.py", str(stack.data / "dev.json"))
        try:
            until(lambda: stack.listed(joiner.pid) is not None)
            entry = stack.listed(joiner.pid)
            assert entry is not None
            assert (entry["name"], entry["instance"]) == ("query_service", f"r{joiner.pid}")
            assert entry["grpc"].startswith("127.0.0.1:")
            until(lambda: answers(entry["url"] + "/readyz"))
            # when the stack writes its file anew for a reason of its own
            gateway = stack.pid("gateway")
            os.kill(gateway, signal.SIGKILL)
            until(lambda: stack.pid("gateway") not in (0, gateway))
            assert stack.listed(joiner.pid) == entry
        finally:
            joiner.kill()
            joiner.communicate(timeout=DEADLINE_S)
        until(lambda: stack.listed(joiner.pid) is None)


@contextmanager
def up(folder: Path, *arguments: str) -> Iterator[Up]:
    process = launch(folder, *arguments)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            _, said = process.communicate(timeout=DEADLINE_S)
            pytest.fail(said)
        yield Up(process, folder / "data")
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=DEADLINE_S)


def launch(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return run(folder, "runner.py", str(folder / "data"), *arguments)


def run(folder: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{folder}"}
    return subprocess.Popen(
        [sys.executable, str(folder / script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        return get(url) == 200
    except OSError:
        return False


def get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own loopback
        return int(answer.status)
