"""How every command speaks: tables that ids can be copied from, and errors of usage with a cure."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import redirect_stdout

import pytest

from tidelog.cli import main
from tidelog.cli.output import show_items

ID = "fulfilment:09bcfa6f-46cf-5d0e-9a51-1c2a8a6a5d11"
ERROR = "the provider said no " * 10
END = "end"
COLUMNS = ("id", "next_attempt_at", "error")
ITEM = {"id": ID, "next_attempt_at": None, "error": ERROR}


def on_terminal(show: Callable[[], None]) -> list[str]:
    """The lines that a person sees on a terminal."""
    above, below = os.openpty()
    with os.fdopen(above) as shown, os.fdopen(below, "w") as terminal, redirect_stdout(terminal):
        show()
        print(END, flush=True)
        return [line.rstrip("\n") for line in iter(shown.readline, f"{END}\n")]


def test_a_table_that_is_piped_elides_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    show_items([ITEM], COLUMNS, as_json=False, prose=("error",))

    _, line = capsys.readouterr().out.splitlines()
    assert line.split() == [ID, *ERROR.split()], "what is not there is an empty cell"


def test_on_a_narrow_terminal_prose_is_folded_and_an_id_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    lines = on_terminal(lambda: show_items([ITEM], COLUMNS, as_json=False, prose=("error",)))

    assert len(lines) > 2
    assert ID in lines[1].split()
    assert " ".join(lines[1:]).split() == [ID, *ERROR.split()]


def test_a_line_that_fits_the_terminal_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")

    assert len(on_terminal(lambda: show_items([ITEM], COLUMNS, False, prose=("error",)))) == 2


def test_ids_are_shown_whole_however_many_stand_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    item = {"saga": ID, "key": ID.upper(), "position": f"orders:3:{10**20}"}

    _, line = on_terminal(lambda: show_items([item], tuple(item), as_json=False))

    assert line.split() == list(item.values())


@pytest.mark.parametrize("key", ["o:tea:1", "[red]o-1", "[/]", "お茶-1"])
def test_a_key_is_shown_as_it_is(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_items([{"key": key, "stalled": False}], ("key", "stalled"), as_json=False)

    assert capsys.readouterr().out.splitlines()[1].split() == [key, "no"]


def test_an_empty_list_is_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    show_items([], COLUMNS, as_json=False)

    assert capsys.readouterr().out.split() == list(COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "No such command 'nonsense'. See `tidelog --help`."),
        (["projektion"], "No such command 'projektion'. Did you mean 'projection'?"),
        (["saga", "nonsense"], "No such command 'nonsense'. See `tidelog saga --help`."),
        (["saga", "shwo"], "No such command 'shwo'. Did you mean 'show'?"),
        (["saga", "list", "--nonsense"], "Try 'tidelog saga list --help' for help."),
    ],
    ids=" ".join,
)
def test_an_error_of_usage_says_how_to_go_on(
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/tidelog/cli/__main__.py", *arguments])

    with pytest.raises(SystemExit) as ended:
        main()

    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in said
    assert "Usage: tidelog" in said
