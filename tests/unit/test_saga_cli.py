"""`tidelog saga` where there is nothing to talk to, or nothing to say, and how it shows instances.

A stand-in gives the query service's answers; that they are so in a real one is shown elsewhere.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from tidelog.cli import main
from tidelog.cli.saga import saga_app

ENDED: dict[str, Any] = {
    "id": "fulfilment:09bcfa6f-46cf-5d0e-9a51-1c2a8a6a5d11",
    "status": "completed",
    "deadline": None,
    "age_seconds": 2.5,
    "expected_next": [],
    "stuck": None,
}
NOT_FOUND = {"title": "Not found", "detail": "There is no such instance of a saga."}


class _Answer(BaseHTTPRequestHandler):
    """One instance in the list, and no other."""

    def do_GET(self) -> None:
        is_list = self.path.startswith("/sagas?")
        content: dict[str, Any] = {"items": [ENDED], "next_cursor": None} if is_list else NOT_FOUND
        self.send_response(200 if is_list else 404)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
        del format, args


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A query service that the commands find."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        asked(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


def asked(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Commands ask the query service there."""
    monkeypatch.delenv("TIDELOG_DEV", raising=False)
    monkeypatch.setenv("TIDELOG_QUERY_SERVICE_URL", url)


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """`tidelog saga …`: the exit code of one that ends with an error."""
    monkeypatch.setattr("sys.argv", ["tidelog", "saga", *arguments])
    with pytest.raises(SystemExit) as found:
        main()
    return found.value.code


def test_a_status_that_there_is_not_is_an_error_of_usage() -> None:
    assert CliRunner().invoke(saga_app, ["list", "--status", "odd"]).exit_code == 2


@pytest.mark.parametrize("arguments", [("list",), ("show", "fulfilment:o-1")], ids=" ".join)
def test_a_query_service_that_does_not_answer_is_told_with_the_cure(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        asked(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert ended(monkeypatch, *arguments) == 3

    said = capsys.readouterr().err
    assert "does not answer" in said
    assert "start the stack with ./dev up, or name a running one with --dev FILE." in said


@pytest.mark.usefixtures("queries")
def test_an_instance_that_there_is_not_is_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "show", "fulfilment:nonsense") == 1

    said = capsys.readouterr().err
    assert "fulfilment:nonsense" in said
    assert "`tidelog saga list` shows what there is" in said


@pytest.mark.usefixtures("queries")
def test_the_table_says_how_long_an_instance_lasted_and_nothing_of_what_is_not() -> None:
    shown = CliRunner().invoke(saga_app, ["list"]).stdout.splitlines()
    listed = json.loads(CliRunner().invoke(saga_app, ["list", "--json"]).stdout)

    assert [line.split() for line in shown] == [
        ["id", "status", "lasted_seconds", "deadline", "waits_for", "stuck"],
        [ENDED["id"], "completed", "2.5"],
    ]
    assert listed == {"items": [ENDED]}
