"""`tidelog saga`: the processes that run, step by step, and what a person decides about one.

What is shown comes from the query service. A retry, a skip, a compensate is a decision of a person
like any other: a command of `operations`, an event of the log, carried out once by whoever runs the
sagas, and shown with the instance.
"""

from __future__ import annotations

import getpass
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer

from tidelog.cli.output import (
    FAILURE,
    NOT_RUNNING,
    Dev,
    Json,
    say,
    show_items,
    show_json,
    show_one,
)
from tidelog.cli.system import find_system
from tidelog.cli.token import authorization
from tidelog.engine.deciding import TURN_BACK
from tidelog.errors import Invalid, TidelogError, Unavailable, Unknown
from tidelog.settings import load_settings

TIMEOUT_S = 15.0
WAIT_S = 30.0
POLL_S = 0.2
PAGE_MAX = 200
LIMIT = 50
STATUSES = ("running", "completed", "compensated", "failed", "stuck")
ENDED = {
    "completed": "it has ended; what was done is undone by a command of its own, as cancel-order",
    "compensated": "it is undone already",
    "failed": "it has ended before there was anything to undo",
}
COLUMNS = ("id", "status", "lasted_seconds", "deadline", "waits_for", "stuck")
PROSE = ("waits_for", "stuck")

saga_app = typer.Typer(help="Processes over several contexts.", no_args_is_help=True)

Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]
Operator = Annotated[
    str, typer.Option("--operator", default_factory=getpass.getuser, help="Who decides.")
]
Wait = Annotated[
    float, typer.Option("--wait", min=0, max=600, help="Seconds to wait for the outcome.")
]
Id = Annotated[str, typer.Argument(help="The instance, as fulfilment:o-1.")]


class SagaRefused(TidelogError):
    """The system refused what was asked."""


@saga_app.command("list")
def list_sagas(
    saga: Annotated[str | None, typer.Option(help="Of this saga only.")] = None,
    status: Annotated[str | None, typer.Option(help=f"One of {', '.join(STATUSES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = LIMIT,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Show instances, the newest first. One that has ended lasted up to its end."""
    if status is not None and status not in STATUSES:
        raise typer.BadParameter(f"it is one of {', '.join(STATUSES)}", param_hint="--status")
    filters = {name: text for name, text in (("saga", saga), ("status", status)) if text}
    items: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None and len(items) < limit:
        page = {"limit": str(min(limit - len(items), PAGE_MAX)), **filters}
        found = _get(dev, "/sagas", {**page, "cursor": cursor} if cursor else page)
        items += found["items"]
        cursor = found["next_cursor"]
    if as_json:
        show_json({"items": items})
        return
    show_items([_line(item) for item in items], COLUMNS, as_json=False, prose=PROSE)
    if cursor is not None:
        say(f"the first {limit}; --limit shows more")


@saga_app.command()
def show(instance: Id, dev: Dev = None, as_json: Json = False) -> None:
    """Show one instance: every step, what came of it, and what is waited for."""
    show_one(_instance(dev, instance), as_json)


@saga_app.command()
def retry(
    instance: Id,
    reason: Reason,
    operator: Operator,
    wait_s: Wait = WAIT_S,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Send again what a stuck instance has no answer to; hear what a parked one holds.

    Exit code 1 where it is still stuck after the wait.
    """
    found = _instance(dev, instance)
    if found["status"] != "stuck":
        raise Invalid(f"{instance} is {found['status']}: there is nothing to try again")
    decided = _post(dev, found, "retry", None, reason, operator)
    found = _wait(dev, instance, wait_s, lambda now: now["status"] != "stuck")
    if as_json:
        show_json({"id": instance, "status": found["status"], "decision": decided})
    say(f"{instance}: {found['status']}")
    if found["status"] == "stuck" and wait_s:
        raise typer.Exit(FAILURE)


@saga_app.command()
def skip(
    instance: Id,
    step: Annotated[str, typer.Argument(help="The step, as `saga show` names it.")],
    reason: Reason,
    operator: Operator,
    wait_s: Wait = WAIT_S,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Take a step as done, as if its answer had come; the process goes on from there.

    Exit code 1 where that is refused.
    """
    found = _instance(dev, instance)
    decided = _post(dev, found, "skip", step, reason, operator)
    _tell_outcome(dev, instance, decided, wait_s, as_json)


@saga_app.command()
def compensate(
    instance: Id,
    reason: Reason,
    operator: Operator,
    wait_s: Wait = WAIT_S,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Undo the whole, now: everything that was asked for, from its end.

    Exit code 1 where that is refused, or where what undoes it is stuck.
    """
    found = _instance(dev, instance)
    if found["status"] in ENDED:
        raise Invalid(f"{instance} is {found['status']}: {ENDED[found['status']]}")
    decided = _post(dev, found, "compensate", None, reason, operator)
    _tell_outcome(dev, instance, decided, wait_s, as_json)


def _tell_outcome(
    dev: Path | None, instance: str, decided: Mapping[str, Any], wait_s: float, as_json: bool
) -> None:
    """Wait until the decision is carried out or refused, and what it asked for is answered."""
    target = decided["target"]
    found = _wait(dev, instance, wait_s, lambda now: _is_settled(now, target))
    made = _made(found, target)
    outcome = made["status"] if made else "waiting"
    if as_json:
        answer = {"id": instance, "status": found["status"], "outcome": outcome}
        show_json({**answer, "refused": made and made["refused"], "decision": decided})
    told = f": {made['refused']}" if made and made["refused"] else ""
    say(f"{instance}: {outcome}{told}; it is {found['status']}")
    if outcome != "done" and wait_s:
        raise typer.Exit(FAILURE)


def _is_settled(found: Mapping[str, Any], target: str) -> bool:
    """Whether the decision was carried out, and the wish to turn back has its answer."""
    asked = [step for step in found["steps"] if step["step"] == TURN_BACK]
    return _made(found, target) is not None and all(step["status"] != "pending" for step in asked)


def _made(found: Mapping[str, Any], target: str) -> Mapping[str, Any] | None:
    """The decision as the instance has it; None before it has heard of it."""
    return next((each for each in found["decisions"] if each["target"] == target), None)


def _wait(
    dev: Path | None, instance: str, wait_s: float, done: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The instance, once this is so or the time is over."""
    deadline = time.monotonic() + wait_s
    found = _instance(dev, instance)
    while not done(found) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        found = _instance(dev, instance)
    return found


def _line(item: Mapping[str, Any]) -> dict[str, Any]:
    """An instance as the table shows it: the age of one that has ended is how long it took."""
    waits_for = ", ".join(item["expected_next"])
    return {**item, "lasted_seconds": item["age_seconds"], "waits_for": waits_for}


def _instance(dev: Path | None, instance: str) -> dict[str, Any]:
    try:
        return _get(dev, f"/sagas/{instance}", {})
    except Unknown as error:
        raise Unknown(
            f"there is no instance {instance} of a saga; `tidelog saga list` shows what there is"
        ) from error


def _get(dev: Path | None, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    system = find_system(dev)
    url = system.query_url or system.gateway_url
    if url is None:
        raise Unavailable("this system has no query service")
    return _content(url, "GET", path, params=dict(parameters))


def _post(
    dev: Path | None,
    found: Mapping[str, Any],
    decision: str,
    step: str | None,
    reason: str,
    operator: str,
) -> dict[str, Any]:
    """Record the decision; each has a target of its own, so the same can be decided again."""
    return record_decision(
        dev,
        {
            "kind": "saga",
            "projection": found["saga"],
            "position": _last_position(found),
            "decision": decision,
            "reason": reason,
            "operator": operator,
            "key": found["key"],
            **({"step": step} if step is not None else {}),
        },
    )


def record_decision(dev: Path | None, decided: Mapping[str, Any]) -> dict[str, Any]:
    """Send a decision about an instance or an effect's work; its target, and what was answered."""
    door = find_system(dev).gateway_url or load_settings().command_service_url
    target = f"{decided['kind']}~{decided['projection']}~{uuid.uuid4()}"
    body = {"version": 1, **decided}
    headers = authorization(dev, str(decided["operator"]), "operator")
    path = f"/operations/{target}/decide-parked"
    answer = _content(door, "POST", path, json=body, headers=headers)
    return {"target": target, **answer}


def _last_position(found: Mapping[str, Any]) -> str:
    """The last answer that the instance has; the place before the first event where it has none."""
    positions = [step["position"] for step in found["steps"] if step["position"]]
    return str(positions[-1]) if positions else "operations:0:0"


def _content(url: str, method: str, path: str, **rest: Any) -> dict[str, Any]:
    """The answer's document; Unavailable, Unknown or SagaRefused where it is a problem."""
    try:
        answer = httpx2.request(
            method, f"{url.rstrip('/')}{path}", timeout=TIMEOUT_S, trust_env=False, **rest
        )
    except httpx2.TransportError as error:
        raise Unavailable(f"{url} does not answer ({error}); {NOT_RUNNING}.") from error
    content: dict[str, Any] = answer.json() if answer.content else {}
    told = f"{content.get('title', answer.status_code)}: {content.get('detail', '')}"
    if answer.status_code >= 500:
        raise Unavailable(f"{url}: {told}")
    if answer.status_code == 404:
        raise Unknown(told)
    if answer.status_code >= 400:
        raise SagaRefused(told)
    return content
