"""What the commands about read models share: where the system is, and what people have decided."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from schemas import CONTEXTS, OPERATIONS
from tidelog.cli.kafka import reach
from tidelog.cli.output import FAILURE, say
from tidelog.cli.progress import progress
from tidelog.cli.system import find_system
from tidelog.codec import Codec
from tidelog.engine.heeding import Made
from tidelog.errors import ConfigurationError
from tidelog.kafka.decisions import DecisionLog
from tidelog.logging import configure_logging
from tidelog.rebuild.site import Site, Watch
from tidelog.rebuild.workers import Interrupted, Workers, World
from tidelog.registry import RegistryClient
from tidelog.settings import load_settings

Name = Annotated[str, typer.Argument(help="A projection, as order_summary.")]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", min=1, max=64, help="Processes; default: one per CPU.")
]


def find_site(dev: Path | None) -> Site:
    """The running system that is meant. ConfigurationError where it has no registry."""
    system, settings = find_system(dev), load_settings()
    configure_logging("warning", "tidelog", "cli")
    reach(system.kafka_bootstrap_servers)
    if system.registry_url is None:
        raise ConfigurationError("the system names no schema registry: events cannot be read")
    return Site(
        bootstrap_servers=system.kafka_bootstrap_servers,
        registry_url=system.registry_url,
        dsn=system.postgres_dsn,
        schema=settings.postgres_schema,
        topic_prefix=system.topic_prefix,
        projections=settings.projections,
    )


def world_of(site: Site, name: str) -> World:
    """The projection with every decision about its events, read to the end. Unknown if none."""
    return World(site=site, projection=name, made=partial(made_about, site, name)).renewed()


def made_about(site: Site, name: str) -> Sequence[Made]:
    """Every decision about the projection's events, in the order of their log."""
    projection = site.projection(name)
    contexts = {each.name: each for each in (OPERATIONS, *CONTEXTS, *projection.contexts)}
    used = [OPERATIONS, *(each for each in projection.contexts if each.name != OPERATIONS.name)]
    registry = RegistryClient(site.registry_url)
    with closing(registry):
        decided = DecisionLog(
            bootstrap_servers=site.bootstrap_servers,
            topic_prefix=site.topic_prefix,
            codec=Codec([contexts[each.name] for each in used], registry, site.topic_prefix),
            contexts=used,
        )
        with closing(decided):
            decided.refresh()
            return decided.made_for(name, projection.version)


def worker_count(given: int | None) -> int:
    """As asked for, or one per CPU."""
    return given or len(os.sched_getaffinity(0))


@contextmanager
def interruptible(cure: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the work in order, and say what to do next; exit code 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        say(f"stopped. {cure}")
        raise typer.Exit(FAILURE) from None


@contextmanager
def at_work(given: int | None, cure: str, as_json: bool) -> Iterator[tuple[Workers, Watch]]:
    """Worker processes, made before the command does anything else, and a watch on the work.

    Ctrl-C ends it in order, and says the cure.
    """
    with (
        closing(Workers(worker_count(given))) as workers,
        interruptible(cure),
        progress(as_json) as watch,
    ):
        yield workers, watch
