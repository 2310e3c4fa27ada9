"""`tidelog schema`: the committed schemas and golden records, written from the code and checked.

Two folders beside the message types are the history of what lies in the log: `avro/` holds the
schema of every message as it is today, `golden/` a record for every version there ever was.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidelog.avro import avro_schema
from tidelog.cli.output import FAILURE, Json, say, show_json
from tidelog.errors import CodecError, ConfigurationError
from tidelog.golden import Golden, agrees, golden_of, read_golden, same_version
from tidelog.message import Context, Message
from tidelog.registry.compatibility import default_level, incompatibilities
from tidelog.registry.lints import checked
from tidelog.wire import commands_topic, events_topic

schema_app = typer.Typer(help="The schemas of commands and events.", no_args_is_help=True)

Contexts = Annotated[
    str, typer.Option(help="Where the list of contexts is: module:NAME.", metavar="PLACE")
]
Folder = Annotated[Path, typer.Option(help="The folder of avro/ and golden/.", file_okay=False)]
CONTEXTS_DEFAULT = "schemas:CONTEXTS"
FOLDER_DEFAULT = Path("schemas")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One message with what is committed of it."""

    context: Context
    message: type[Message]
    full_name: str
    schema: dict[str, Any]
    file: Path
    golden: tuple[Golden, ...]

    @property
    def text(self) -> str:
        """The content that the schema's file must have."""
        return json.dumps(self.schema, indent=2, ensure_ascii=False) + "\n"

    @property
    def committed(self) -> str:
        """The content that it has; empty where there is none."""
        return self.file.read_text(encoding="utf-8") if self.file.exists() else ""

    @property
    def is_new_version(self) -> bool:
        """Whether today's schema is a version that has no golden record yet."""
        return not any(same_version(golden.schema, self.schema) for golden in self.golden)

    @property
    def subject(self) -> str:
        """The registry's subject, which decides how the schema may change."""
        is_event = self.message in self.context.event_types
        topic = (events_topic if is_event else commands_topic)(self.context.name)
        return f"{topic}-{self.full_name}"


@schema_app.command()
def generate(contexts: Contexts = CONTEXTS_DEFAULT, folder: Folder = FOLDER_DEFAULT) -> None:
    """Write the schemas, and a golden record for every new version; refuse a change that breaks."""
    entries = entries_of(load_contexts(contexts), folder)
    _stop_where([problem for entry in entries for problem in breaches(entry)])
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    (folder / "avro").mkdir(parents=True, exist_ok=True)
    written = [path for entry in entries for path in _write(entry, folder)]
    for path in written:
        say(f"wrote {path}")
    say(f"{len(entries)} messages, {len(written)} files changed")


@schema_app.command()
def check(
    contexts: Contexts = CONTEXTS_DEFAULT, folder: Folder = FOLDER_DEFAULT, as_json: Json = False
) -> None:
    """Fail where files are stale, a change breaks readers, or an old record cannot be read."""
    entries = entries_of(load_contexts(contexts), folder)
    problems = [*problems_of(entries), *strangers(entries, folder)]
    if as_json:
        show_json({"messages": len(entries), "problems": problems})
    _stop_where(problems)
    say(f"{len(entries)} messages: schemas fresh, changes compatible, golden records readable")


@schema_app.command()
def diff(contexts: Contexts = CONTEXTS_DEFAULT, folder: Folder = FOLDER_DEFAULT) -> None:
    """Show how the types differ from the committed schemas; exit 1 where they do."""
    lines = [line for entry in entries_of(load_contexts(contexts), folder) for line in _diff(entry)]
    for line in lines:
        typer.echo(line)
    if lines:
        raise typer.Exit(FAILURE)


def load_contexts(place: str) -> Sequence[Context]:
    """The contexts that `module:NAME` holds."""
    module, _, name = place.partition(":")
    try:
        contexts: Sequence[Context] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as missing:
        raise ConfigurationError(
            f"{place} names no list of contexts; write it as module:NAME ({missing})"
        ) from missing
    return contexts


def entries_of(contexts: Sequence[Context], folder: Path) -> list[Entry]:
    """Every message with its schema of today and its committed history."""
    return [
        Entry(
            context=context,
            message=message,
            full_name=(name := context.full_name(message)),
            schema=avro_schema(message, name),
            file=folder / "avro" / f"{name}.avsc",
            golden=read_history(folder, name),
        )
        for context in contexts
        for message in (*context.event_types, *context.command_types)
    ]


def read_history(folder: Path, full_name: str) -> tuple[Golden, ...]:
    """The golden records of a message, oldest first."""
    found = []
    for path in (folder / "golden").glob(f"{full_name}.v*.json"):
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
        if path.name != f"{golden.full_name}.v{golden.version}.json":
            raise ConfigurationError(f"{path} holds {golden.full_name} version {golden.version}")
        found.append(golden)
    return tuple(sorted(found, key=lambda golden: golden.version))


def problems_of(entries: Sequence[Entry]) -> list[str]:
    """Everything that a change must not do, and every file that it forgot, as sentences."""
    problems = []
    for entry in entries:
        if entry.committed != entry.text:
            problems.append(f"{entry.file} is stale. Run: tidelog schema generate")
        if entry.is_new_version:
            problems.append(f"{entry.full_name} has no golden record of today's schema")
        problems += [*breaches(entry), *_unreadable(entry)]
    return problems


def breaches(entry: Entry) -> list[str]:
    """Why today's schema may not follow its versions: events both ways, commands backward."""
    older = [(golden.version, checked(golden.schema)) for golden in entry.golden]
    level = default_level(entry.subject)
    return [
        f"{entry.full_name} ({level}): {message}"
        for message in incompatibilities(level, checked(entry.schema), older)
    ]


def strangers(entries: Sequence[Entry], folder: Path) -> list[str]:
    """Files of messages that no context has any more: the log may still hold them."""
    names = {entry.full_name for entry in entries}
    files = [*(folder / "avro").glob("*.avsc"), *(folder / "golden").glob("*.json")]
    return [
        f"{file} belongs to no message of these contexts; an event type is never removed"
        for file in sorted(files)
        if ".".join(file.name.split(".")[:3]) not in names
    ]


def _unreadable(entry: Entry) -> Iterator[str]:
    for golden in entry.golden:
        place = f"{entry.full_name} version {golden.version}"
        try:
            found = msgspec.to_builtins(read_golden(golden, entry.context))
        except CodecError as error:
            yield f"{place} can no longer be read: {error}"
            continue
        if not agrees(golden.decoded, found):
            yield f"{place} now says something else than its golden record"


def _write(entry: Entry, folder: Path) -> Iterator[Path]:
    if entry.committed != entry.text:
        entry.file.write_text(entry.text, encoding="utf-8")
        yield entry.file
    if entry.is_new_version:
        version = max((golden.version for golden in entry.golden), default=0) + 1
        golden = golden_of(entry.context, entry.message, version)
        path = folder / "golden" / f"{entry.full_name}.v{version}.json"
        content = json.dumps(msgspec.to_builtins(golden), indent=2, ensure_ascii=False)
        path.write_text(content + "\n", encoding="utf-8")
        yield path


def _diff(entry: Entry) -> list[str]:
    return list(
        difflib.unified_diff(
            entry.committed.splitlines(),
            entry.text.splitlines(),
            f"{entry.file} (committed)",
            f"{entry.message.__name__} (types)",
            lineterm="",
        )
    )


def _stop_where(problems: Sequence[str]) -> None:
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(FAILURE)
