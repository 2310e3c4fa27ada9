"""`tidelog replay NAME --into LABEL`: a stretch of the log, folded into a table to look at."""

from __future__ import annotations

from typing import Annotated

import typer

from tidelog.cli.bulk import Name, find_site, interruptible, world_of
from tidelog.cli.output import Dev, Json, show_json
from tidelog.cli.progress import progress
from tidelog.rebuild.replay import Stretch, drop_scratch, read_bound
from tidelog.rebuild.replay import replay as replay_stretch


def replay(
    name: Name,
    into: Annotated[str, typer.Option(help="The table is NAME__scratch_LABEL.")],
    dev: Dev = None,
    start: Annotated[
        str | None, typer.Option("--from", help="After these positions, or from this time on.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="Up to these positions, or before this time.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the table instead.")] = False,
    as_json: Json = False,
) -> None:
    """Fold a stretch of the log into a table that no view shows and nobody feeds.

    Positions read orders:3:1042 and are joined by commas; a time is RFC 3339. What is left out is
    the beginning, or the present end, of the log.
    """
    bounds = Stretch(start=read_bound(start), end=read_bound(end))
    world = world_of(find_site(dev), name)
    with interruptible("Nothing was written."), progress(as_json) as watch:
        if drop:
            result = {"projection": name, "dropped": drop_scratch(world, into)}
        else:
            result = replay_stretch(world, into, bounds, watch)
    if as_json:
        show_json(result)
        return
    for key, value in result.items():
        typer.echo(f"{key}: {value}")
