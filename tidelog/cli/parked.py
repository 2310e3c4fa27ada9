"""`tidelog parked`: what waits for a retry or a person, and what a person can do about it.

A decision is a command like any other: it goes through the command service and is an event of
`operations`, so every fold from then on, a rebuild as well, takes it in.
"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tidelog.cli.output import FAILURE, Dev, Json, say, show_items, show_json, show_one
from tidelog.cli.parked_system import ParkedSystem
from tidelog.cli.saga import record_decision
from tidelog.errors import Invalid, Unknown
from tidelog.postgres.parked_list import KINDS

WAIT_S = 30.0
POLL_S = 0.2
LIMIT = 200
LIMIT_MAX = 10_000
NO_POSITION = "operations:0:0"
"""What work outside follows from is an event that it does not know the place of."""
COLUMNS = ("projection", "key", "position", "attempts", "waiting", "age_seconds", "error")
EFFECT_COLUMNS = ("effect", "key", "attempts", "age_seconds", "next_attempt_at", "error")

parked_app = typer.Typer(help="What waits for a retry or a person.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The projection, as `tidelog parked list` names it.")]
Key = Annotated[str, typer.Argument(help="The key of the row.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]
Operator = Annotated[
    str, typer.Option("--operator", default_factory=getpass.getuser, help="Who decides.")
]
Wait = Annotated[
    float,
    typer.Option("--wait", min=0, max=600, help="Seconds to wait for the outcome; 0 does not."),
]


@parked_app.command("list")
def list_parked(
    kind: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(KINDS)}; all if left out.")
    ] = None,
    projection: Annotated[str | None, typer.Option(help="Of this projection only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = LIMIT,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Show rows, records and commands that are parked, the oldest first."""
    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"it is one of {', '.join(KINDS)}", param_hint="--kind")
    with closing(ParkedSystem(dev)) as system:
        items = [_plain(each) for each in system.items(kind, projection, limit)]
    show_items(items, COLUMNS, as_json, prose=("error",))
    if len(items) == limit:
        say(f"the first {limit}; --limit shows more")


@parked_app.command()
def show(projection: Name, key: Key, dev: Dev = None, as_json: Json = False) -> None:
    """Show why a key is parked: the event's data, the error, and the row as it stands."""
    with closing(ParkedSystem(dev)) as system:
        item = system.item(projection, key)
        content = {**_plain(item), "event": system.record(item), "row": system.row(item)}
    show_one(content, as_json)


@parked_app.command()
def retry(
    projection: Name, key: Key, wait_s: Wait = WAIT_S, dev: Dev = None, as_json: Json = False
) -> None:
    """Try the key again now. Exit code 1 where it fails again."""
    with closing(ParkedSystem(dev)) as system:
        item = system.item(projection, key)
        system.ask_retry(item)
        _finish(system, item, {}, wait_s, as_json)


@parked_app.command()
def effects(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = LIMIT,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Show work outside that is parked: its tries are used up, or the other side said no."""
    with closing(ParkedSystem(dev)) as system:
        items = [_work(each) for each in system.items("effect", None, limit)]
    show_items(items, EFFECT_COLUMNS, as_json, prose=("error",))


@parked_app.command("retry-effects")
def retry_effects(
    reason: Reason,
    operator: Operator,
    effect: Annotated[str | None, typer.Option(help="Of this effect only.")] = None,
    key: Annotated[str | None, typer.Option(help="For this key only.")] = None,
    wait_s: Wait = WAIT_S,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Take parked work up again, with all its tries before it.

    Exit code 1 where nothing is parked of the effect or key that is named, or where some of it is
    parked still after the wait.
    """
    with closing(ParkedSystem(dev)) as system:
        found = [
            each
            for each in system.items("effect", effect, LIMIT_MAX)
            if key is None or each["key"] == key
        ]
        if not found and (effect or key):
            raise Unknown(_nothing_parked(effect, key))
        for name, subject in sorted({(each["projection"], each["key"]) for each in found}):
            record_decision(
                dev,
                {
                    "kind": "effect",
                    "projection": name,
                    "position": NO_POSITION,
                    "decision": "retry",
                    "reason": reason,
                    "operator": operator,
                    "key": subject,
                },
            )
        left = _wait_for_work(system, found, wait_s)
    if as_json:
        show_json({"retried": len(found), "parked": left})
    if not found:
        say("nothing is parked: there is nothing to take up again")
        return
    say(f"{len(found)} taken up again, {left} of them parked still")
    if left:
        raise typer.Exit(FAILURE)


@parked_app.command()
def discard(
    projection: Name,
    key: Key,
    reason: Reason,
    operator: Operator,
    wait_s: Wait = WAIT_S,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Leave the event out of this projection, for good; what waits behind it is folded then."""
    with closing(ParkedSystem(dev)) as system:
        item = system.item(projection, key)
        decided = system.decide(item, "discard", None, reason, operator)
        _finish(system, item, decided, wait_s, as_json)


@parked_app.command()
def edit(
    projection: Name,
    key: Key,
    data: Annotated[str, typer.Option("--data", help="The event's whole data as JSON, or @FILE.")],
    reason: Reason,
    operator: Operator,
    wait_s: Wait = WAIT_S,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Put other data in the event's place, in this projection, for good.

    The event in the log stays as it is.
    """
    replacement = _canonical(_given(data))
    with closing(ParkedSystem(dev)) as system:
        item = system.item(projection, key)
        system.checked(item, replacement)
        decided = system.decide(item, "edit", replacement, reason, operator)
        _finish(system, item, decided, wait_s, as_json)


def _nothing_parked(effect: str | None, key: str | None) -> str:
    of = f" of effect {effect}" if effect else ""
    for_ = f" for key {key}" if key else ""
    return f"nothing{of} is parked{for_}; `tidelog parked effects` shows what is parked"


def _wait_for_work(system: ParkedSystem, asked: Sequence[Mapping[str, Any]], wait_s: float) -> int:
    """How much of this work was not taken up within the time."""
    deadline = time.monotonic() + wait_s
    begun = {each["id"]: each["parked_at"] for each in asked}
    while True:
        # A retry sets the work's clock anew: what is parked since then was tried.
        now = system.items("effect", None, LIMIT_MAX)
        left = len([each for each in now if begun.get(each["id"]) == each["parked_at"]])
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(POLL_S)


def _work(item: Mapping[str, Any]) -> dict[str, Any]:
    """Parked work, by the names that it has there."""
    shown = _plain(item)
    return {
        "effect": shown["projection"],
        **{name: shown[name] for name in ("key", "attempts", "age_seconds", "error")},
        "next_attempt_at": shown["next_attempt_at"],
        "id": shown["target"],
    }


def _finish(
    system: ParkedSystem,
    item: Mapping[str, Any],
    decided: Mapping[str, Any],
    wait_s: float,
    as_json: bool,
) -> None:
    """Wait until the key was tried, and tell what became of it."""
    now, outcome = _wait(system, item, decided, wait_s)
    if as_json:
        parked = None if now is None else _plain(now)
        show_json({"outcome": outcome, "decision": decided or None, "parked": parked})
    name = f"{item['projection']} {item['key']}"
    match outcome:
        case "drained":
            say(f"{name}: folded to the end; nothing of it is parked any more")
        case "failed":
            assert now is not None, "what failed is parked"
            say(f"{name}: {now['event_type']} at {now['position']} failed: {now['error']}")
        case _:
            say(f"{name}: not tried within {wait_s:g} s; `tidelog parked show` tells more")
    if outcome == "failed" or (outcome == "waiting" and wait_s):
        raise typer.Exit(FAILURE)


def _wait(
    system: ParkedSystem, item: Mapping[str, Any], decided: Mapping[str, Any], wait_s: float
) -> tuple[dict[str, Any] | None, str]:
    """The key as it is once it was tried: drained, failed (again, or further on), or waiting.

    A try that did not know of the decision yet says nothing.
    """
    deadline, before = time.monotonic() + wait_s, item["attempted_at"]
    while True:
        heeded = not decided or system.heeds(item, str(decided["token"]))
        now = system.still(item)
        if now is None:
            return None, "drained"
        if not heeded:
            before = now["attempted_at"]
        tried = now["attempted_at"] != before
        due = now["next_attempt_at"] is not None and now["next_attempt_at"] <= datetime.now(UTC)
        # A key that is due at once goes on: it is only further than it was.
        if tried and not due:
            return now, "failed"
        if time.monotonic() >= deadline:
            return now, "waiting"
        time.sleep(POLL_S)


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item as JSON has it, with its age."""
    age = (datetime.now(UTC) - item["parked_at"]).total_seconds()
    shown = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in item.items()
    }
    return {**shown, "age_seconds": round(age, 1)}


def _given(data: str) -> str:
    if not data.startswith("@"):
        return data
    try:
        return Path(data[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(str(error), param_hint="--data") from error


def _canonical(text: str) -> str:
    """The JSON without needless space, so that the same decision is the same text."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    except ValueError as error:
        raise Invalid(f"--data is no JSON: {error}") from error
