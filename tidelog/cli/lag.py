"""`tidelog lag`: how far every read model is behind the log, in records and in seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from tidelog.cli.kafka import reach
from tidelog.cli.output import FAILURE, Dev, Json, show_items, show_json
from tidelog.cli.system import find_system
from tidelog.definitions import load_projections
from tidelog.lag import GenerationLag
from tidelog.lag_observer import LagObserver
from tidelog.settings import load_settings

WATCH_S = 2.0
COLUMNS = (
    "name", "version", "generation", "serving", "partition", "position", "end", "lag",
    "lag_seconds", "trend", "stalled",
)  # fmt: skip
SUMMARY = ("name", "version", "generation", "serving", "lag", "lag_seconds", "trend", "status")


def lag(
    dev: Dev = None,
    partitions: Annotated[
        bool, typer.Option("--partitions", help="A line for each partition.")
    ] = False,
    window_s: Annotated[
        float,
        typer.Option("--window", min=0, max=60, help="Seconds over which the trend is told."),
    ] = 1.0,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, until interrupted.")] = False,
    as_json: Json = False,
) -> None:
    """Show how far each read model is behind. Exit code 1 where one is stalled or stopped.

    It reads the positions from PostgreSQL and the ends from the log, so it is exact also when no
    projector runs.
    """
    with closing(observer_of(dev)) as observer:
        observer.look()
        time.sleep(window_s)  # a trend needs two looks
        while True:
            found = observer.look()
            _show(found, partitions, as_json)
            if not watch:
                break
            time.sleep(WATCH_S)
    if any(each.status in ("stalled", "stopped") for each in found if each.stored.serving):
        raise typer.Exit(FAILURE)


def observer_of(dev: Path | None) -> LagObserver:
    """Who looks at the lag of the system that is meant."""
    system, settings = find_system(dev), load_settings()
    reach(system.kafka_bootstrap_servers)
    found = {
        "postgres_dsn": system.postgres_dsn,
        "kafka_bootstrap_servers": system.kafka_bootstrap_servers,
        "topic_prefix": system.topic_prefix,
    }
    projections = load_projections(settings.projections)
    return LagObserver(projections, settings.model_copy(update=found), cache_s=0)


def _show(found: Sequence[GenerationLag], partitions: bool, as_json: bool) -> None:
    if as_json:
        show_json(
            {"items": [{**each.item(), "partitions": each.partition_items()} for each in found]}
        )
    elif partitions:
        show_items([line for each in found for line in partition_lines(each)], COLUMNS, False)
    else:
        show_items([each.item() for each in found], SUMMARY, False)


def partition_lines(found: GenerationLag) -> list[dict[str, Any]]:
    """Its partitions as the table shows them."""
    return [{**item, "serving": found.stored.serving} for item in found.partition_items()]
