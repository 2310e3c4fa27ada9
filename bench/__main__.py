"""`python -m bench`: run the measures, each side in turn with its peer, and print the ratios.

A timing is never a test: nothing here fails because it was slow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from bench import (
    failover,
    forwarding,
    gateway,
    r1_in_process,
    r2_http,
    r3_eventsourcing,
    r4_group_commit,
    r5_projection,
    r6_rebuild,
    r7_sagas,
    r8_queries,
    r9_freshness,
    tokens,
)
from bench.report import Report, read_json, show, this_machine, write_json, write_markdown
from bench.rounds import Measure, run
from bench.stack import Given, Stack, running_stack

MEASURES: dict[str, Callable[[Stack, Sequence[int]], list[Measure]]] = {
    "R1": r1_in_process.measures,
    "R2": r2_http.measures,
    "R3": r3_eventsourcing.measures,
    "R4": r4_group_commit.measures,
    "R5": r5_projection.measures,
    "R6": r6_rebuild.measures,
    "R7": r7_sagas.measures,
    "R8": r8_queries.measures,
    "R9": r9_freshness.measures,
    "TOKENS": tokens.measures,
    "FORWARD": forwarding.measures,
    "GATEWAY": gateway.measures,
}
FAILOVER = "FAILOVER"
"""By its name only, and alone: it takes minutes, and it is no ratio."""

PIPE_WIDTH = 150
QUICK_ROUNDS, QUICK_SECONDS = 2, 1.0


def main() -> int:
    """Run what was asked for."""
    arguments = parsed(sys.argv[1:])
    if arguments.only == [FAILOVER]:
        return failed_over(arguments)
    saved = arguments.from_json
    report = read_json(saved) if saved else measured(arguments)
    show(report, Console(width=None if sys.stdout.isatty() else PIPE_WIDTH))
    if arguments.json:
        write_json(report, arguments.json)
    if arguments.markdown:
        write_markdown(report, arguments.markdown)
    return 0


def failed_over(arguments: argparse.Namespace) -> int:
    """The one that is no ratio of rates: seconds without an owner."""
    rounds = QUICK_ROUNDS if arguments.quick else arguments.rounds
    progress = Console(stderr=True, highlight=False)
    figures = failover.measured(arguments.kafka, rounds, progress.print)
    failover.show(figures, Console(width=None if sys.stdout.isatty() else PIPE_WIDTH))
    return 0


def measured(arguments: argparse.Namespace) -> Report:
    """Start the parts, run the measures, stop the parts."""
    rounds = QUICK_ROUNDS if arguments.quick else arguments.rounds
    seconds = QUICK_SECONDS if arguments.quick else arguments.seconds
    given = Given(kafka=arguments.kafka, postgres=arguments.postgres, registry=arguments.registry)
    progress = Console(stderr=True, highlight=False)
    with running_stack(given) as stack:
        machine = this_machine(stack.kafka_version, rounds, seconds)
        measures = [
            measure
            for name in arguments.only
            for measure in MEASURES[name](stack, arguments.partitions)
        ]
        results = [run(each, rounds, seconds, progress.print) for each in measures]
    return Report(machine=machine, results=results)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bench",
        description=__doc__,
        epilog="Not ratios of rounds, so apart: `python -m bench.recovery` (starts of a command "
        "service on a long log, and R10), `python -m bench.codec`, `python -m bench.http_edge`.",
    )
    add = parser.add_argument
    add(
        "--only",
        type=_measure_names,
        default=list(MEASURES),
        help="R1,R2,…,tokens,forward,gateway; default: all these. Or failover, alone",
    )
    add("--rounds", type=int, default=5, help="per side; default 5")
    add("--seconds", type=float, default=4.0, help="of each round; default 4")
    add("--partitions", type=_counts, default=[1, 4], help="for R1 and R3; default 1,4")
    add("--quick", action="store_true", help="2 rounds of 1 s, to see that all works")
    add("--json", type=Path, metavar="FILE", help="save everything")
    add("--markdown", type=Path, metavar="PAGE", help="put the tables into a page")
    add("--from-json", type=Path, metavar="FILE", help="show a saved run, measure nothing")
    add("--kafka", default="", metavar="HOST:PORT", help="a broker that runs already")
    add("--postgres", default="", metavar="DSN", help="a PostgreSQL that runs already")
    add("--registry", default="", metavar="URL", help="a schema registry that runs already")
    return parser.parse_args(arguments)


def _measure_names(text: str) -> list[str]:
    names = text.upper().split(",")
    if names == [FAILOVER]:
        return names
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is not one of {', '.join(MEASURES)}")
    return names


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
