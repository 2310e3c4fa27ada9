"""`tidelog acl`: who may do what in Kafka, shown or made."""

from __future__ import annotations

from typing import Annotated

import typer

from tidelog.cli.kafka import reach
from tidelog.cli.output import FAILURE, Dev, Json, say, show_items
from tidelog.cli.schema import CONTEXTS_DEFAULT, load_contexts
from tidelog.cli.system import find_system
from tidelog.errors import ConfigurationError
from tidelog.kafka.access import (
    OWNER,
    PRINCIPALS,
    give,
    grants_of,
    missing,
    other_writers,
    standing,
)

Apply = Annotated[bool, typer.Option("--apply", help="Make the rules that are missing.")]
Contexts = Annotated[
    str, typer.Option(help="Where the list of contexts is: module:NAME.", metavar="PLACE")
]
Principals = Annotated[
    list[str] | None,
    typer.Option(
        "--principal",
        metavar="SERVICE=PRINCIPAL",
        help="The principal of a service; User:<service> where none is given. May be repeated.",
    ),
]


def acl(
    apply: Apply = False,
    contexts: Contexts = CONTEXTS_DEFAULT,
    principal: Principals = None,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Show the rules that a cluster needs: one principal per service, one writer of events.

    With --apply the missing ones are made, by a user who may alter the cluster; exit code 1 tells
    that somebody else may write events too.
    """
    system = find_system(dev)
    names = [context.name for context in load_contexts(contexts)]
    principals = principals_of(principal or [])
    grants = grants_of(names, system.topic_prefix, principals)
    if not apply:
        show_items([grant._asdict() for grant in grants], grants[0]._fields, as_json)
        return
    admin, _ = reach(system.kafka_bootstrap_servers)
    rules = standing(admin)
    new = missing(grants, rules)
    give(admin, new)
    say(f"{len(new)} rules made, {len(grants) - len(new)} were there")
    show_items([grant._asdict() for grant in new], grants[0]._fields, as_json)
    others = other_writers(names, system.topic_prefix, principals[OWNER], rules)
    for other in others:
        say(f"{other}: only {principals[OWNER]} may; take that rule away")
    if others:
        raise typer.Exit(FAILURE)


def principals_of(given: list[str]) -> dict[str, str]:
    """The principal of each service; ConfigurationError for one that is none."""
    principals = {name: f"User:{name}" for name in PRINCIPALS}
    for each in given:
        name, _, principal = each.partition("=")
        if name not in principals or ":" not in principal:
            raise ConfigurationError(
                f"--principal {each}: write SERVICE=User:NAME, with one of {', '.join(PRINCIPALS)}"
            )
        principals[name] = principal
    return principals
