"""`tidelog saga` where there is nothing to talk to, or nothing to say."""

from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from tidelog.cli import main
from tidelog.cli.saga import saga_app


def test_a_status_that_there_is_not_is_an_error_of_usage() -> None:
    assert CliRunner().invoke(saga_app, ["list", "--status", "odd"]).exit_code == 2


def test_a_query_service_that_does_not_answer_is_told_by_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.delenv("TIDELOG_DEV", raising=False)
        monkeypatch.setenv("TIDELOG_QUERY_SERVICE_URL", url)
        monkeypatch.setattr("sys.argv", ["tidelog", "saga", "show", "fulfilment:o-1"])

        with pytest.raises(SystemExit) as ended:
            main()

    assert ended.value.code == 3
    assert "does not answer" in capsys.readouterr().err
