"""The audit of dependencies: a finding fails, no answer is said and does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.audit import LOCK, Package, locked, main

Answer = Callable[[list[dict[str, Any]]], Any]


@contextmanager
def service(answer: Answer) -> Iterator[str]:
    """A vulnerability service on loopback that answers the questions so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = json.dumps(answer(json.loads(self.rfile.read(length))["queries"])).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def vulnerable(queries: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "results": [
            {"vulns": [{"id": "GHSA-1"}]} if query["package"]["name"] == "uvloop" else {}
            for query in queries
        ]
    }


def test_the_lock_is_read_whole() -> None:
    packages = locked(LOCK.read_text())
    assert len(packages) > 50
    assert {"confluent-kafka", "uvloop", "psycopg"} <= {package.name for package in packages}
    assert locked("a-b==1.2 ; python_version < '3.13' \\\n    --hash=x\n") == [
        Package("a-b", "1.2")
    ]


def test_a_vulnerable_dependency_fails_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with service(vulnerable) as url:
        assert main(["--service", url]) == 1
    assert "uvloop" in (told := capsys.readouterr().err)
    assert "https://osv.dev/vulnerability/GHSA-1" in told


def test_without_a_finding_it_says_how_many_were_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with service(lambda queries: {"results": [{} for _ in queries]}) as url:
        assert main(["--service", url]) == 0
    assert "no known vulnerability in" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer", [{}, {"results": []}, [], {"results": "no"}], ids=["empty", "short", "list", "text"]
)
def test_an_answer_that_is_none_is_not_taken_for_all_clear(
    answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with service(lambda _: answer) as url:
        assert main(["--service", url]) == 0
    assert "NOT ASKED" in capsys.readouterr().out


def test_without_a_network_it_says_so_and_does_not_fail(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--service", "http://127.0.0.1:1/"]) == 0
    assert "NOT ASKED" in capsys.readouterr().out
