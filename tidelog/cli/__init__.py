"""The command line: `tidelog …`, one file per command.

A further command is a further file and one line in COMMANDS (or GROUPS, for `projection list`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

from tidelog.cli.acl import acl
from tidelog.cli.demo import demo
from tidelog.cli.docs import docs_app
from tidelog.cli.doctor import doctor
from tidelog.cli.events import events
from tidelog.cli.lag import lag
from tidelog.cli.output import FAILURE, UNREACHABLE, USAGE, Dev, say
from tidelog.cli.parked import parked_app
from tidelog.cli.projection import projection_app
from tidelog.cli.replay import replay
from tidelog.cli.run import run
from tidelog.cli.saga import saga_app
from tidelog.cli.schema import schema_app
from tidelog.cli.token import api_key, token
from tidelog.cli.topics import topics
from tidelog.cli.up import down, up
from tidelog.errors import ConfigurationError, TidelogError, Unavailable

NAME = "tidelog"
COMMANDS: tuple[Callable[..., None], ...] = (
    up, down, run, demo, doctor, topics, events, lag, replay, token, api_key, acl,
)  # fmt: skip
GROUPS: dict[str, typer.Typer] = {
    "docs": docs_app,
    "parked": parked_app,
    "projection": projection_app,
    "saga": saga_app,
    "schema": schema_app,
}


class Group(TyperGroup):
    """Commands, of which typer proposes a near one for a name that there is not; else all."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is meant; an error of usage where there is none."""
        if args[0] not in self.commands and not get_close_matches(args[0], self.commands):
            ctx.fail(f"No such command '{args[0]}'. See `{ctx.command_path} --help`.")
        return super().resolve_command(ctx, args)


def _app() -> typer.Typer:
    app = typer.Typer(
        name=NAME,
        cls=Group,
        help="Event-sourced CQRS on Apache Kafka.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(everywhere)
    for command in COMMANDS:
        app.command()(command)
    for name, group in GROUPS.items():
        app.add_typer(group, name=name, cls=Group)
    return app


def everywhere(dev: Dev = None) -> None:
    """Event-sourced CQRS on Apache Kafka."""
    if dev is not None:
        os.environ["TIDELOG_DEV"] = str(dev)


def main() -> None:
    """Run the command; an error of ours becomes a line on stderr and the exit code of its kind."""
    try:
        _app()(prog_name=NAME)
    except TidelogError as error:
        say(str(error))
        sys.exit(_exit_code(error))


def _exit_code(error: TidelogError) -> int:
    if isinstance(error, Unavailable):
        return UNREACHABLE
    return USAGE if isinstance(error, ConfigurationError) else FAILURE
