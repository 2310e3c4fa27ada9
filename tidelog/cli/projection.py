"""`tidelog projection …`: list, rebuild, verify, adopt, rollback and drop-old of read models."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Annotated, Any

import typer

from tidelog.cli.bulk import (
    Name,
    WorkerCount,
    at_work,
    find_site,
    interruptible,
    worker_count,
    world_of,
)
from tidelog.cli.lag import SUMMARY, observer_of
from tidelog.cli.output import FAILURE, Dev, Json, say, show_items, show_json
from tidelog.cli.progress import progress
from tidelog.definitions import AnyProjection, load_projections
from tidelog.errors import Unknown
from tidelog.postgres.sql_projection import SqlProjection
from tidelog.rebuild.loading import ROWS_MAX
from tidelog.rebuild.rebuild import Rebuild, Rebuilt
from tidelog.rebuild.rebuild import cancel as cancel_rebuild
from tidelog.rebuild.upkeep import adopt, drop_old, plan, rollback
from tidelog.rebuild.verify import Proof, serving_generation, verify

projection_app = typer.Typer(
    help="List, rebuild, prove and switch read models.", no_args_is_help=True
)


@projection_app.command("list")
def list_command(dev: Dev = None, as_json: Json = False) -> None:
    """List every generation of every read model: where it stands and how it fares."""
    with closing(observer_of(dev)) as observer:
        show_items([each.item() for each in observer.look()], SUMMARY, as_json)


@projection_app.command("rebuild")
def rebuild_command(
    name: Name,
    dev: Dev = None,
    workers: WorkerCount = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Drop the unfinished one.")] = False,
    no_switch: Annotated[
        bool, typer.Option("--no-switch", help="Leave the present one serving.")
    ] = False,
    rows_max: Annotated[
        int, typer.Option(min=1, help="Rows that a worker holds before it writes them.")
    ] = ROWS_MAX,
    as_json: Json = False,
) -> None:
    """Build a read model anew from the log, beside the one that serves, then switch to it.

    Run again after a crash or Ctrl-C, it goes on where it was.
    """
    if dry_run and cancel:
        raise typer.BadParameter("--dry-run and --cancel exclude one another")
    if dry_run:
        _show(plan(world_of(find_site(dev), name), worker_count(workers)), as_json)
        return
    if cancel:
        dropped = cancel_rebuild(world_of(find_site(dev), name))
        _show({"projection": name, "cancelled": dropped.table}, as_json)
        return
    cure = f"Nothing is lost: `tidelog projection rebuild {name}` goes on, `--cancel` drops it."
    with at_work(workers, cure, as_json) as (crew, watch):
        world = world_of(find_site(dev), name)
        job = Rebuild(world, workers=crew, watch=watch, rows_max=rows_max)
        done = job.run(switch_over=not no_switch)
    _show(_rebuilt(done), as_json)
    if done.proof is not None and not done.proof.equal:
        say(
            f"{done.generation.table} is not what the log makes, so it does not serve. "
            f"`tidelog projection rebuild {name} --cancel` drops it."
        )
        raise typer.Exit(FAILURE)


@projection_app.command("verify")
def verify_command(
    name: Annotated[str | None, typer.Argument(help="A projection, as order_summary.")] = None,
    dev: Dev = None,
    every: Annotated[bool, typer.Option("--all", help="Every projection.")] = False,
    key: Annotated[
        str | None, typer.Option(help="The row of this key alone; exit code 1 where there is none.")
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many rows, at random.")] = None,
    workers: WorkerCount = None,
    as_json: Json = False,
) -> None:
    """Fold the log again and compare row by row; exit code 1 where a row is not what it makes."""
    if (name is None) != every:
        raise typer.BadParameter("name a projection, or say --all")
    some = key is not None or sample is not None
    if some and (every or None not in (key, sample)):
        raise typer.BadParameter("--key and --sample are for one projection, one at a time")
    proofs = []
    with at_work(workers, "Nothing was changed.", as_json) as (crew, watch):
        site = find_site(dev)
        declared = load_projections(site.projections)
        for each in [each.name for each in declared] if name is None else [name]:
            if some:
                _check_has_rows(site.projection(each))
            world = world_of(site, each)
            proofs.append(
                verify(
                    world,
                    serving_generation(world),
                    workers=crew,
                    watch=watch,
                    keys=None if key is None else [key],
                    sample=sample,
                )
            )
    if key is not None:
        _check_known(proofs[0], key)
    _show_proofs(proofs, every, as_json)
    if not all(proof.equal for proof in proofs):
        raise typer.Exit(FAILURE)


@projection_app.command("adopt")
def adopt_command(
    name: Name, dev: Dev = None, workers: WorkerCount = None, as_json: Json = False
) -> None:
    """Take over a definition that was changed without a new version, if it makes the same rows."""
    with at_work(workers, "Nothing was changed.", as_json) as (crew, watch):
        adopted, proofs = adopt(world_of(find_site(dev), name), workers=crew, watch=watch)
    differing = [proof for proof in proofs if not proof.equal]
    _show(
        {
            "projection": name,
            "adopted": [each.table for each in adopted],
            "equal": not differing,
            "first_difference": differing[0].first_difference if differing else None,
        },
        as_json,
    )
    if differing:
        say(f"The change makes other rows. Raise the version of {name} and rebuild it.")
        raise typer.Exit(FAILURE)


@projection_app.command("rollback")
def rollback_command(name: Name, dev: Dev = None, as_json: Json = False) -> None:
    """Let the generation serve again that served before the last switch."""
    world = world_of(find_site(dev), name)
    with interruptible("Nothing was changed."), progress(as_json) as watch:
        before, now = rollback(world, watch)
    _show(
        {
            "projection": name,
            "version": now.version,
            "generation": now.generation,
            "from": before.table,
            "to": now.table,
            "switched": True,
        },
        as_json,
    )


@projection_app.command("drop-old")
def drop_old_command(name: Name, dev: Dev = None, as_json: Json = False) -> None:
    """Drop the generations that do not serve, with their rows, positions and parked keys."""
    dropped = drop_old(world_of(find_site(dev), name))
    _show({"projection": name, "dropped": [each.table for each in dropped]}, as_json)


def _check_has_rows(projection: AnyProjection) -> None:
    if isinstance(projection, SqlProjection):
        name = projection.name
        raise typer.BadParameter(f"{name} writes its own SQL: it is proved as a whole")


def _check_known(proof: Proof, key: str) -> None:
    """Unknown where there was nothing to compare: no row there, and none that the log makes."""
    if proof.equal and not proof.rows:
        raise Unknown(
            f"nothing was compared: {proof.generation.table} has no row with the key {key}, and "
            "the log makes none. Is the key spelt right?"
        )


def _rebuilt(done: Rebuilt) -> dict[str, Any]:
    result = {
        "projection": done.generation.projection,
        "generation": done.generation.generation,
        "events": done.events,
        "seconds": round(done.seconds, 3),
        "switched": done.switched,
        "version": done.generation.version,
        "load_seconds": round(done.load_seconds, 3),
    }
    if done.proof is not None:
        result["verified"] = done.proof.equal
        result["first_difference"] = done.proof.first_difference
    return result


def _show_proofs(proofs: list[Proof], every: bool, as_json: bool) -> None:
    if as_json and every:
        show_json({"items": [proof.as_json() for proof in proofs]})
        return
    for proof in proofs:
        _show(proof.as_json(), as_json)


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    """The result: JSON, or a line for each of its parts."""
    if as_json:
        show_json(result)
        return
    for name, value in result.items():
        if name in ("expected", "found", "first_difference") and isinstance(value, Mapping):
            typer.echo(f"{name}:")
            for part, content in value.items():
                typer.echo(f"    {part}: {content}")
        else:
            typer.echo(f"{name}: {value}")
