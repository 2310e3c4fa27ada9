"""Pictures of the sagas, drawn from their definitions: who causes what, in what order, and back.

Pure. The text is Markdown with Mermaid; it is never drawn by hand, so it is what runs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from tidelog.message import Command, Context, Event
from tidelog.saga import Compensation, Deadline, Saga, commands_of, step_name

Causes = Mapping[type[Command], Sequence[type[Event]]]
"""The events that each command may cause."""

FAILURE_COLOUR = "#c0392b"
FAILURE_BACKGROUND = "rgb(253, 230, 226)"
COMPENSATION_COLOUR = "#b9770e"

SAGA = "saga"
"""Who the saga is in a sequence diagram; a context may have its name."""

INTRODUCTION = """\
# Choreography

Written from the definitions by `tidelog docs choreography`; a test fails where this page is stale.

A box is a command, a rounded box an event. What the sagas ask for is
[explained here](../explanation/sagas.md); the messages are in [messages.md](messages.md).
"""


class Link(NamedTuple):
    """An event leads to a command, by a step of a saga."""

    event: str
    step: str
    command: str
    failure: bool


class Limit(NamedTuple):
    """A deadline as it is drawn."""

    name: str
    within: timedelta
    commands: Sequence[type[Command]]


def choreography_page(
    sagas: Sequence[Saga[Any]], contexts: Sequence[Context], causes: Causes
) -> str:
    """The whole page, as Markdown."""
    parts = [INTRODUCTION, "## Everything\n"]
    parts.append(
        "Thick arrows are reactions of sagas (red: what turns a process round), thin ones are what "
        "a command may cause.\nCommands that nothing leads to come from people, effects, deadlines "
        "and compensations.\n"
    )
    parts.append(_fenced(message_graph(sagas, contexts, causes)))
    for saga in sagas:
        parts.append(f"## {saga.name}\n")
        parts.append("What leads on; on a red ground what turns it round.\n")
        parts.append(_fenced(sequence_diagram(saga, contexts)))
        parts.append(f"### {saga.name}: undoing\n")
        parts.append(
            "Each is asked for while it is needed, and only once the one before is done.\n"
        )
        parts.append(_fenced(compensation_map(saga)))
        parts += [*_compensation_table(saga), *_deadline_table(saga), *person_table(saga)]
    return "\n".join(parts).rstrip("\n") + "\n"


def message_graph(
    sagas: Sequence[Saga[Any]], contexts: Sequence[Context], causes: Causes
) -> Iterator[str]:
    """Every command and event, what causes what, and which saga joins them."""
    yield "flowchart LR"
    for context in contexts:
        yield f"    subgraph {context.name}"
        yield from (f"        {kind.__name__}[{kind.__name__}]" for kind in context.command_types)
        yield from (f"        {kind.__name__}([{kind.__name__}])" for kind in context.event_types)
        yield "    end"
    count = 0
    for command, events in causes.items():
        for event in events:
            yield f"    {command.__name__} --> {event.__name__}"
            count += 1
    failures = []
    for saga in sagas:
        for link in links_of(saga):
            yield f'    {link.event} ==>|"{saga.name}: {link.step}"| {link.command}'
            if link.failure:
                failures.append(str(count))
            count += 1
    if failures:
        yield f"    linkStyle {','.join(failures)} stroke:{FAILURE_COLOUR},color:{FAILURE_COLOUR}"


def links_of(saga: Saga[Any]) -> Iterator[Link]:
    """Which events lead to which commands. In an order, the answers of a step lead to the next."""
    for failure, reactions in ((False, saga.steps), (True, saga.failures)):
        for reaction in reactions:
            for command in commands_of(reaction.react):
                yield Link(reaction.event.__name__, reaction.step, command.__name__, failure)
    before: Iterable[type[Event]] = saga.starts
    for step in saga.order:
        if step.ask is not None:
            for event in before:
                for command in commands_of(step.ask):
                    yield Link(event.__name__, step.name, command.__name__, failure=False)
        before = step.answers


# --- one saga in time -------------------------------------------------------------------------


def sequence_diagram(saga: Saga[Any], contexts: Sequence[Context]) -> Iterator[str]:
    """The process in time: as it should go, then what turns it round."""
    cast = _Cast(contexts)
    yield "sequenceDiagram"
    yield f"    participant {SAGA} as {saga.name} (saga)"
    yield from (f"    participant {context.name}" for context in saga.contexts)
    told: set[type[Event]] = set()
    for event in () if saga.steps else saga.starts:
        yield cast.says(event)
    for reaction in saga.steps:
        if reaction.event not in told:
            yield cast.says(reaction.event)
        yield cast.notes(reaction.step)
        yield from cast.asks(commands_of(reaction.react))
        # The first answer is the one that leads on; the others are told where they are acted upon.
        yield from (cast.says(event) for event in reaction.answers[:1])
        told.update((reaction.event, *reaction.answers[:1]))
    for step in saga.order:
        yield cast.notes(step.name)
        if step.ask is not None:
            yield from cast.asks(commands_of(step.ask))
        yield from map(cast.says, step.answers)
    yield from _failures(saga, cast)


def _failures(saga: Saga[Any], cast: _Cast) -> Iterator[str]:
    """What turns the process round, each on its own ground."""
    for reaction in saga.failures:
        yield from cast.failing(
            [
                cast.says(reaction.event),
                cast.notes(reaction.step),
                *cast.asks(commands_of(reaction.react)),
                *map(cast.says, reaction.answers),
            ]
        )
    for name, branch in _refusals(saga):
        yield from cast.failing([cast.notes(f"{name} is refused"), *cast.asks(commands_of(branch))])
    for limit in map(_limit, saga.limits):
        note = f"{limit.name} takes longer than {duration(limit.within)}"
        asked = cast.asks(limit.commands) if limit.commands else [cast.notes("a person is needed")]
        yield from cast.failing([cast.notes(note), *asked])


def _refusals(saga: Saga[Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for reaction in (*saga.steps, *saga.failures):
        if reaction.refused is not None:
            yield reaction.step, reaction.refused
    for step in saga.order:
        if step.refused is not None:
            yield step.name, step.refused


class _Cast:
    """Who speaks in a diagram: the saga, and the contexts that own the messages."""

    def __init__(self, contexts: Iterable[Context]) -> None:
        self._homes: dict[type, str] = {
            kind: context.name
            for context in contexts
            for kind in (*context.command_types, *context.event_types)
        }

    def says(self, event: type[Event]) -> str:
        return f"    {self._homes[event]}-->>{SAGA}: {event.__name__}"

    def asks(self, commands: Iterable[type[Command]]) -> list[str]:
        return [f"    {SAGA}->>{self._homes[each]}: {each.__name__}" for each in commands]

    def notes(self, text: str) -> str:
        return f"    Note over {SAGA}: {text}"

    def failing(self, lines: Iterable[str]) -> Iterator[str]:
        yield f"    rect {FAILURE_BACKGROUND}"
        yield from (f"    {line}" for line in lines)
        yield "    end"


# --- one saga back ----------------------------------------------------------------------------


def compensation_map(saga: Saga[Any]) -> Iterator[str]:
    """What is undone by what, from the last step to the first."""
    yield "flowchart LR"
    backwards = [*reversed(saga.undoing)]
    for number, each in enumerate(backwards, start=1):
        yield f'    {_node(each.step)}["{number}: {each.step}"]'
        yield f"    {_node(each.undoes)}_done([{each.undoes}])"
        yield f"    {_node(each.step)} -.->|undoes| {_node(each.undoes)}_done"
    names = [_node(each.step) for each in backwards]
    if saga.undone is not None:
        last = step_name(saga.undone)
        yield f"    {_node(last)}[{last}]"
        names.append(_node(last))
    for one, other in itertools.pairwise(names):
        yield f"    {one} ==> {other}"
    yield f"    classDef compensation stroke:{COMPENSATION_COLOUR},color:{COMPENSATION_COLOUR}"
    yield f"    class {','.join(names)} compensation"


def _compensation_table(saga: Saga[Any]) -> Iterator[str]:
    yield "| Compensation | Undoes | Asks for | Answered by | Attempts |"
    yield "|---|---|---|---|---|"
    for each in reversed(saga.undoing):
        yield _compensation_row(each)
    if saga.undone is not None:
        yield f"| `{step_name(saga.undone)}` | the whole | {_named(commands_of(saga.undone))} | | |"
    yield ""


def _compensation_row(each: Compensation) -> str:
    asked, answered = _named(commands_of(each.by)), _named(each.answers)
    return (
        f"| `{each.step}` | `{each.undoes}` | {asked} | {answered} | {each.retries.attempts_max} |"
    )


def _deadline_table(saga: Saga[Any]) -> Iterator[str]:
    yield f"### {saga.name}: deadlines\n"
    yield "| Deadline | Within | Then |"
    yield "|---|---|---|"
    for limit in map(_limit, saga.limits):
        then = _named(limit.commands) or "stuck: a person is needed"
        yield f"| `{limit.name}` | {duration(limit.within)} | {then} |"
    yield ""


def person_table(saga: Saga[Any]) -> Iterator[str]:
    """What a person may decide: which steps may be skipped, and what turns the whole back."""
    steps = [(each.step, each.skipped) for each in saga.steps]
    ordered = [(each.name, each.skipped) for each in saga.order]
    undoing = [(each.step, each.skipped) for each in saga.undoing]
    rows = [(name, by) for name, by in (*steps, *ordered, *undoing) if by is not None]
    if not rows and saga.turn_back is None:
        return
    yield f"### {saga.name}: what a person may decide\n"
    yield "| Decision | Means |"
    yield "|---|---|"
    for name, by in rows:
        yield f"| skip `{name}` | {step_name(by).replace('-', ' ')} |"
    if saga.turn_back is not None:
        yield f"| compensate | {_named(commands_of(saga.turn_back))} |"
    yield ""


def _limit(deadline: Deadline) -> Limit:
    commands = commands_of(deadline.missed) if deadline.missed is not None else ()
    return Limit(deadline.name, deadline.within, commands)


def duration(time: timedelta) -> str:
    """The time in its largest whole unit: `10 minutes`."""
    seconds = round(time.total_seconds())
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds % size == 0 and seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds} seconds"


def _named(kinds: Iterable[type]) -> str:
    return ", ".join(f"`{kind.__name__}`" for kind in kinds)


def _node(name: str) -> str:
    """An id that Mermaid takes, from the name of a step."""
    return re.sub(r"\W", "_", name)


def _fenced(lines: Iterable[str]) -> str:
    return "\n".join(["```mermaid", *lines, "```", ""])
