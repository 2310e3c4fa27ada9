"""What was written once can be read for ever: every golden record, by today's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from schemas import CONTEXTS
from tests.unit.codec_sample import SAMPLE, Paint
from tidelog.cli.schema import (
    check,
    diff,
    entries_of,
    generate,
    problems_of,
    read_history,
    strangers,
)
from tidelog.golden import Golden, agrees, golden_of, read_golden, same_version, sample_of
from tidelog.message import Command, Context, Event, Id

ROOT = Path(__file__).parent.parent.parent / "schemas"
CONTEXT_OF = {context.name: context for context in CONTEXTS}
GOLDEN = sorted((ROOT / "golden").glob("*.json"))


# --- The shop's own -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_record_is_read_as_it_was_written(path: Path) -> None:
    golden = msgspec.json.decode(path.read_bytes(), type=Golden)

    message = read_golden(golden, CONTEXT_OF[golden.full_name.split(".")[1]])

    assert agrees(golden.decoded, msgspec.to_builtins(message))


def test_every_message_has_a_golden_record() -> None:
    messages = sum(len(c.event_types) + len(c.command_types) for c in CONTEXTS)

    assert len(GOLDEN) >= messages


def test_the_committed_schemas_are_those_of_the_types_and_break_no_reader() -> None:
    entries = entries_of(CONTEXTS, ROOT)

    assert problems_of(entries) == []
    assert strangers(entries, ROOT) == []


# --- How a history grows --------------------------------------------------------------------------


class Opened(Event):
    """The first version."""

    id: Id
    amount: int


OPENED_WITH_NOTE: Any = msgspec.defstruct(
    "Opened",
    [("id", Id), ("amount", int), ("note", str | None, None)],
    bases=(Event,),
    frozen=True,
    namespace={"__doc__": "The second version: a field more, with a default."},
)
OPENED_BROKEN: Any = msgspec.defstruct(
    "Opened", [("id", Id), ("amount", str)], bases=(Event,), frozen=True
)
OPENED_DEMANDING: Any = msgspec.defstruct(
    "Opened", [("id", Id), ("amount", int), ("more", int)], bases=(Event,), frozen=True
)
OPENED_REWORDED: Any = msgspec.defstruct(
    "Opened",
    [("id", Id), ("amount", int)],
    bases=(Event,),
    frozen=True,
    namespace={"__doc__": "Other words."},
)


def version(event: type[Event], command: type[Command] = Paint) -> Context:
    return Context(name="shop", key="id", commands=command, events=event)


@pytest.fixture
def grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder after the first version was generated."""
    run(generate, version(Opened), tmp_path, monkeypatch)
    return tmp_path


def run(command: object, context: Context, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command on these contexts."""
    monkeypatch.setattr("tests.unit.codec_sample.CONTEXTS", (context,), raising=False)
    assert callable(command)
    try:
        command("tests.unit.codec_sample:CONTEXTS", folder)
    except typer.Exit as stopped:
        return stopped.exit_code
    return 0


def problems(context: Context, folder: Path) -> list[str]:
    return problems_of(entries_of([context], folder))


def test_generating_leaves_nothing_to_complain_of(
    grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(check, version(Opened), grown, monkeypatch) == 0
    assert run(diff, version(Opened), grown, monkeypatch) == 0
    assert problems(version(Opened), grown) == []


def test_generating_again_changes_no_file(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in grown.rglob("*.*")}

    run(generate, version(Opened), grown, monkeypatch)

    assert {path: path.read_bytes() for path in grown.rglob("*.*")} == before


def test_a_changed_type_makes_the_files_stale(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = version(OPENED_WITH_NOTE)

    assert any("stale" in problem for problem in problems(changed, grown))
    assert run(check, changed, grown, monkeypatch) == 1
    assert run(diff, changed, grown, monkeypatch) == 1


def test_a_field_with_a_default_is_a_second_version_and_the_first_stays_readable(
    grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = version(OPENED_WITH_NOTE)

    assert run(generate, changed, grown, monkeypatch) == 0
    first, second = read_history(grown, "tidelog.shop.Opened")
    assert (first.version, second.version) == (1, 2)
    assert problems(changed, grown) == []
    assert read_golden(first, changed) == OPENED_WITH_NOTE("sample-1", 3, None)


@pytest.mark.parametrize("broken", [OPENED_BROKEN, OPENED_DEMANDING])
def test_a_change_that_breaks_readers_is_refused_and_writes_nothing(
    broken: type[Event], grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in grown.rglob("*.*")}

    assert run(check, version(broken), grown, monkeypatch) == 1
    assert run(generate, version(broken), grown, monkeypatch) == 1
    assert any("FULL_TRANSITIVE" in problem for problem in problems(version(broken), grown))
    assert {path: path.read_bytes() for path in grown.rglob("*.*")} == before


def test_other_words_are_no_other_version(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(generate, version(OPENED_REWORDED), grown, monkeypatch)

    assert len(read_history(grown, "tidelog.shop.Opened")) == 1
    assert problems(version(OPENED_REWORDED), grown) == []


def test_a_removed_event_is_missed(grown: Path) -> None:
    entries = entries_of([version(OPENED_REWORDED)], grown)
    (grown / "avro" / "tidelog.shop.Closed.avsc").write_text("{}")

    assert "never removed" in strangers(entries, grown)[0]


def test_a_tampered_golden_record_is_found(grown: Path) -> None:
    path = grown / "golden" / "tidelog.shop.Opened.v1.json"
    content = json.loads(path.read_text())
    content["value"] = content["value"][:-2] + "08"
    path.write_text(json.dumps(content))

    assert "something else" in problems(version(Opened), grown)[0]
    content["value"] += "00"
    path.write_text(json.dumps(content))
    assert "no longer be read" in problems(version(Opened), grown)[0]


def test_a_sample_is_always_the_same_and_valid() -> None:
    for message in (*SAMPLE.event_types, *SAMPLE.command_types):
        golden = golden_of(SAMPLE, message, 1)

        assert sample_of(message) == sample_of(message)
        assert read_golden(golden, SAMPLE) == sample_of(message)
        assert same_version(golden.schema, golden_of(SAMPLE, message, 2).schema)
