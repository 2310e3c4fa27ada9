"""What else is done with generations: going back to the one before, dropping old ones, adopting.

Each holds the projection's administrative lock, so that no two of them, and no rebuild, meet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from psycopg import Connection

from tidelog.definition import definition_hash
from tidelog.engine.judge import Progress
from tidelog.errors import Unknown
from tidelog.postgres import generations, rebuilds
from tidelog.postgres.bulk_store import connect
from tidelog.postgres.generations import Registered
from tidelog.postgres.migrations import migrate
from tidelog.postgres.rebuilds import Refused
from tidelog.postgres.tables import Generation, ReadModelTable
from tidelog.projection import Projection
from tidelog.rebuild.rebuild import lag_behind_serving, session, switch_to
from tidelog.rebuild.site import Watch, partitions_of
from tidelog.rebuild.verify import Proof, verify
from tidelog.rebuild.workers import Workers, World

FED_WAIT_S = 10.0
POLL_S = 0.1


def rollback(world: World, watch: Watch) -> tuple[Generation, Generation]:
    """Let the generation serve that served before; which one did, and which one does.

    Refused where there is none, and where it is behind and nobody feeds it: a reader's position
    never goes back.
    """
    schema, name = world.site.schema, world.projection
    with session(world, "rollback") as connection:
        now_serving = generations.serving(generations.registered(connection, schema, name))
        before = generations.served_before(connection, schema, name)
        if now_serving is None or before is None:
            raise Refused(f"{name} has no generation that served before; it was dropped, or never.")

        def catch_up() -> None:
            _wait_until_fed(connection, schema, before)

        catch_up()
        switch_to(connection, schema, before, watch, catch_up)
        return now_serving.generation, before


def _wait_until_fed(connection: Connection[Any], schema: str, generation: Generation) -> None:
    """Return once it lacks nothing of what the serving one had; Refused where it stands still."""
    lacking = lag_behind_serving(connection, schema, generation)
    moved_at = time.monotonic()
    while lacking:
        if time.monotonic() - moved_at > FED_WAIT_S:
            raise Refused(
                f"{generation.table} is {lacking} events behind and nobody feeds it, so nothing "
                f"was switched. Run projectors that declare version {generation.version} of "
                f"{generation.projection} until it has caught up, then roll back again."
            )
        time.sleep(POLL_S)
        now = lag_behind_serving(connection, schema, generation)
        if now != lacking:
            moved_at = time.monotonic()
        lacking = now


def drop_old(world: World) -> list[Generation]:
    """Drop every generation that neither serves nor is being rebuilt; which ones those were.

    Whoever feeds one of them finds it gone and stops feeding it.
    """
    schema, name = world.site.schema, world.projection
    with session(world, "drop-old") as connection:
        building = rebuilds.unfinished(connection, schema, name)
        kept = building.generation if building else None
        known = generations.registered(connection, schema, name)
        if not known:
            raise Unknown(f"{name} has no table yet: start the projectors, or rebuild it.")
        old = [
            each.generation
            for each in known
            if not each.serving and each.state != "loading" and each.generation != kept
        ]
        for generation in old:
            with connection.transaction():
                generations.drop(connection, schema, generation)
        return old


def adopt(world: World, *, workers: Workers, watch: Watch) -> tuple[list[Generation], list[Proof]]:
    """Take the present definition over for the rows of the declared version, where it is proved.

    The generations that were taken over, and every proof; none is taken over where one differs.
    """
    schema, name = world.site.schema, world.projection
    projection = world.site.projection(name)
    definition = definition_hash(projection)
    with session(world, "adopt") as connection:
        known = generations.registered(connection, schema, name)
        if not known:
            raise Unknown(f"{name} has no table yet: start the projectors, or rebuild it.")
        changed = [each.generation for each in known if _has_changed(each, projection, definition)]
        proofs = [verify(world, each, workers=workers, watch=watch) for each in changed]
        if not all(proof.equal for proof in proofs):
            return [], proofs
        with connection.transaction():
            for generation in changed:
                generations.set_definition(connection, schema, generation, definition)
        return changed, proofs


def _has_changed(each: Registered, projection: Any, definition: str) -> bool:
    return (
        each.generation.version == projection.version
        and each.state == "live"
        and each.definition != definition
    )


def plan(world: World, workers: int) -> dict[str, Any]:
    """What a rebuild would do, as JSON. Nothing is changed."""
    site, name = world.site, world.projection
    projection = site.projection(name)
    topics = site.topics(projection)
    ends = site.ends(partitions_of(topics))
    with closing(connect(site.dsn, "tidelog-plan")) as connection:
        migrate(connection, site.schema)
        known = generations.registered(connection, site.schema, name)
        found = rebuilds.unfinished(connection, site.schema, name)
        number = generations.next_generation(connection, site.schema, name)
        target = found.generation if found else Generation(name, projection.version, number)
        done = rebuilds.shard_progress(connection, site.schema, target) if found else {}
        now_serving = generations.serving(known)
        old = (
            _column_names(connection, site.schema, now_serving.generation.table)
            if now_serving
            else []
        )
    least: dict[Any, Progress] = {}
    for (_, at), progress in done.items():
        least[at] = min(least.get(at, progress), progress)
    new = (
        list(ReadModelTable(projection, target.generation, site.schema).columns)
        if isinstance(projection, Projection)
        else old
    )
    changed = now_serving is not None and now_serving.definition != definition_hash(projection)
    return {
        "projection": name,
        "version": target.version,
        "generation": target.generation,
        "table": target.table,
        "resumes": found is not None,
        "serving": now_serving.generation.table if now_serving else None,
        "definition_changed": changed,
        "events": sum(max(end - least.get(at, Progress()).sequence, 0) for at, end in ends.items()),
        "columns_added": [each for each in new if each not in old],
        "columns_removed": [each for each in old if each not in new],
        "indexes": [
            ", ".join(each) if not isinstance(each, str) else each for each in projection.indexes
        ],
        "workers": workers,
    }


def _column_names(connection: Connection[Any], schema: str, table: str) -> Sequence[str]:
    found = connection.execute(
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        (schema, table),
    )
    return [column for (column,) in found]
