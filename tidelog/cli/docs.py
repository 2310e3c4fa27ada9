"""`tidelog docs`: pages of the reference that are written from the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tidelog.aggregate import Aggregate
from tidelog.choreography import Causes, choreography_page
from tidelog.errors import ConfigurationError, Rejected
from tidelog.message import Command, Event, Message

AnyAggregate = Aggregate[Any, Any, Any]

docs_app = typer.Typer(help="Write reference pages from the code.", no_args_is_help=True)


@docs_app.callback()
def docs() -> None:
    """Write reference pages from the code."""


@docs_app.command()
def messages(
    aggregates: Annotated[
        str, typer.Option(help="Where the list of aggregates is: module:NAME.")
    ] = "command_service.aggregates:AGGREGATES",
    public: Annotated[
        str, typer.Option(help="Where the list of public commands is: module:NAME.")
    ] = "schemas:PUBLIC_COMMANDS",
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path(
        "docs/reference/messages.md"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where it is stale.")
    ] = False,
) -> None:
    """The commands and events of every context, with routes and rules."""
    _write(messages_page(_load(aggregates), _load(public)), output, "messages", check)


@docs_app.command()
def choreography(
    sagas: Annotated[
        str, typer.Option(help="Where the list of sagas is: module:NAME.")
    ] = "sagas.definitions:SAGAS",
    aggregates: Annotated[
        str, typer.Option(help="Where the list of aggregates is: module:NAME.")
    ] = "command_service.aggregates:AGGREGATES",
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path(
        "docs/reference/choreography.md"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where it is stale.")
    ] = False,
) -> None:
    """What events lead to, and how it is undone, as diagrams."""
    known: Sequence[AnyAggregate] = _load(aggregates)
    contexts = [aggregate.context for aggregate in known]
    page = choreography_page(_load(sagas), contexts, causes_of(known))
    _write(page, output, "choreography", check)


def _write(page: str, output: Path, command: str, check: bool) -> None:
    """Write the page, or with `check` tell by the exit code whether it is stale."""
    current = output.read_text(encoding="utf-8") if output.exists() else ""
    if check:
        if current != page:
            typer.echo(f"{output} is stale. Run: tidelog docs {command}", err=True)
            raise typer.Exit(1)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    typer.echo(f"wrote {output}", err=True)


def messages_page(aggregates: Sequence[AnyAggregate], public: Sequence[type[Command]]) -> str:
    """The whole page, as Markdown."""
    parts = [_INTRODUCTION]
    for aggregate in aggregates:
        parts += _section(aggregate, public)
    return "\n".join(parts)


_INTRODUCTION = """\
# Commands and events

Written from the code by `tidelog docs messages`; a test fails where this page is stale.

A command asks, and may be refused: the rule's name is the problem's type, `409` and
`/problems/<rule-in-kebab-case>`. A value that breaks its type is `422` before any rule is asked.
Public commands are for people; internal ones are for sagas, effects and operators and need the
`service` scope. An event happened, and is never refused. Fields in *italics* may be left out.
"""


def _section(aggregate: AnyAggregate, public: Sequence[type[Command]]) -> Iterator[str]:
    context = aggregate.context
    yield f"## {context.name}\n"
    yield f"{_sentence(inspect.getmodule(aggregate.decide))}"
    yield f"The key is `{context.key}`.\n"
    rules = rules_of(aggregate)
    for title, kinds in (
        ("Public commands", [k for k in context.command_types if k in public]),
        ("Internal commands", [k for k in context.command_types if k not in public]),
    ):
        if kinds:
            yield f"### {context.name}: {title.lower()}\n"
            yield from _table(
                ["Command", "Route", "Fields", "Meaning", "Refused by"],
                [_command_row(aggregate, kind, rules[kind]) for kind in kinds],
            )
    yield f"### {context.name}: events\n"
    yield from _table(
        ["Event", "Fields", "Meaning"],
        [
            (f"`{kind.__name__}`", _fields(kind, context.key), _prose(kind))
            for kind in context.event_types
        ],
    )
    named = {rule.__name__: rule for kinds in rules.values() for rule in kinds}
    yield f"### {context.name}: rules\n"
    yield from _table(
        ["Rule", "Problem", "Meaning"],
        [(f"`{name}`", f"`/problems/{rule.slug()}`", _prose(rule)) for name, rule in named.items()],
    )


def _command_row(
    aggregate: AnyAggregate, kind: type[Command], rules: Sequence[type[Rejected]]
) -> tuple[str, ...]:
    context = aggregate.context
    route = f"POST /{context.name}/{{{context.key}}}/{kebab_case(kind.__name__)}"
    refused = ", ".join(f"`{rule.__name__}`" for rule in rules) or "never"
    fields = _fields(kind, context.key)
    return f"`{kind.__name__}`", f"`{route}`", fields, _prose(kind), refused


def kebab_case(name: str) -> str:
    """`PlaceOrder` → `place-order`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def rules_of(
    aggregate: AnyAggregate,
) -> dict[type[Command], list[type[Rejected]]]:
    """The rules that may refuse each command, read from the source of `decide`.

    They are those raised on the command's way through `decide`: in its own arm, before it, and in
    the functions of the same module that these call.
    """
    return {
        kind: [named for named in _made(aggregate, kind) if issubclass(named, Rejected)]
        for kind in aggregate.context.command_types
    }


def causes_of(aggregates: Iterable[AnyAggregate]) -> Causes:
    """The events that each command may cause, read from the source of `decide` as the rules are."""
    return {
        kind: [named for named in _made(aggregate, kind) if issubclass(named, Event)]
        for aggregate in aggregates
        for kind in aggregate.context.command_types
    }


def _made(aggregate: AnyAggregate, kind: type[Command]) -> list[type[Any]]:
    """The rules and events that are made on the command's way through `decide`, each once."""
    module = inspect.getmodule(aggregate.decide)
    tree = ast.parse(inspect.getsource(module or aggregate.decide))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    way = _way_of(kind.__name__, functions[aggregate.decide.__name__])
    return _classes_made(way, functions, module)


def _way_of(command: str, decide: ast.FunctionDef) -> Iterator[ast.AST]:
    """The statements of `decide` that a command of this type passes."""
    for statement in decide.body:
        if isinstance(statement, ast.Match):
            yield from (c for c in statement.cases if _names(c.pattern, command))
        elif isinstance(statement, ast.If) and _names(statement.test, "isinstance"):
            if _names(statement.test, command):
                yield from statement.body
                return
        else:
            yield statement


def _names(node: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node))


def _classes_made(
    way: Iterable[ast.AST], functions: dict[str, ast.FunctionDef], module: Any
) -> list[type[Any]]:
    """Rules that are named, and events that are made, here and in the functions that this calls."""
    found: dict[type[Any], None] = {}
    waiting, seen = list(way), set[str]()
    while waiting:
        for node in ast.walk(waiting.pop(0)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                made = getattr(module, node.func.id, None)
                if isinstance(made, type) and issubclass(made, Event):
                    found[made] = None
            if not isinstance(node, ast.Name):
                continue
            named = getattr(module, node.id, None)
            if isinstance(named, type) and issubclass(named, Rejected):
                found[named] = None
            elif node.id in functions and node.id not in seen:
                seen.add(node.id)
                waiting.append(functions[node.id])
    return list(found)


def _fields(kind: type[Message], key: str) -> str:
    optional = kind.__struct_defaults__
    names = [name for name in kind.__struct_fields__ if name != key]
    required = len(kind.__struct_fields__) - len(optional)
    later = kind.__struct_fields__[required:]
    return ", ".join(f"*{n}*" if n in later else n for n in names)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _prose(thing: object) -> str:
    """The docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").split())


def _sentence(thing: object) -> str:
    """The first paragraph of the docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as missing:
        raise ConfigurationError(
            f"{place} names no list; write it as module:NAME ({missing})"
        ) from missing
