"""What the rounds found, as a table on the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.rounds import Ratio, RatioResult, Result, SideResult, Spread

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
RATIO_HEAD = ("ratio", "ours", "peer", "median", "least to most", "floor → goal")
SIDE_HEAD = ("side", "per second", "least to most", "CPU µs", "backend CPU µs", "more")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it ran."""

    cores: int
    cpu: str
    python: str
    kafka: str
    rounds: int
    seconds: float
    load_before: float
    """The load average of the minute before: more than a little spoils the figures."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of a run."""

    machine: Machine
    results: list[Result]


def this_machine(kafka: str, rounds: int, seconds: float) -> Machine:
    """What can be said about it."""
    return Machine(
        cores=os.cpu_count() or 0,
        cpu=_cpu_name(),
        python=platform.python_version(),
        kafka=kafka,
        rounds=rounds,
        seconds=seconds,
        load_before=os.getloadavg()[0],
    )


def show(report: Report, console: Console) -> None:
    """Print the tables."""
    console.print(_about(report.machine))
    for result in report.results:
        console.print(_table(result.title, SIDE_HEAD, [_side_row(side) for side in result.sides]))
        console.print(f"[dim]{result.note}[/dim]")
    console.print(_table("Ratios", RATIO_HEAD, _ratio_rows(report)))


def write_json(report: Report, path: Path) -> None:
    """Save everything, single rounds included."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))


def read_json(path: Path) -> Report:
    """What `write_json` saved."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def write_markdown(report: Report, path: Path) -> None:
    """Put the tables between the two marks of a page."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{path} has no place for the tables: {BEGIN} … {END}")
    path.write_text(f"{before}{BEGIN}\n{markdown(report)}{END}{after}", encoding="utf-8")


def markdown(report: Report) -> str:
    """The tables as Markdown."""
    parts = [_about(report.machine), _markdown_table(RATIO_HEAD, _ratio_rows(report))]
    for result in report.results:
        rows = [_side_row(side) for side in result.sides]
        parts += [f"**{result.title}.** {result.note}", _markdown_table(SIDE_HEAD, rows)]
    return "\n\n".join(parts) + "\n"


def _about(machine: Machine) -> str:
    return (
        f"{machine.cores} cores ({machine.cpu}), Python {machine.python}, Kafka {machine.kafka}; "
        f"{machine.rounds} rounds of {machine.seconds:g} s per side, interleaved; "
        f"load average before: {machine.load_before:.1f}."
    )


def _ratio_rows(report: Report) -> list[tuple[str, ...]]:
    return [_ratio_row(result, ratio) for result in report.results for ratio in result.ratios]


def _ratio_row(result: Result, found: RatioResult) -> tuple[str, ...]:
    ratio = found.ratio
    return (
        f"{ratio.name}, {result.partitions} partition{'s' if result.partitions > 1 else ''}",
        ratio.ours,
        found.peer,
        f"{found.spread.median:.2f}",
        f"{found.spread.min:.2f} to {found.spread.max:.2f}",
        _expected(ratio),
    )


def _expected(ratio: Ratio) -> str:
    if ratio.floor is None or ratio.goal is None:
        return "none"
    sign = "≤ " if ratio.figure else ""
    return f"{sign}{ratio.floor:g} → {sign}{ratio.goal:g}"


def _side_row(side: SideResult) -> tuple[str, ...]:
    more = ", ".join(f"{name} {value:.4g}" for name, value in side.extra.items())
    return (
        side.label,
        f"{side.rate.median:,.0f}",
        _range(side.rate),
        f"{side.cpu_us:.1f}",
        f"{side.backend_cpu_us:.1f}",
        more,
    )


def _range(spread: Spread) -> str:
    return f"{spread.min:,.0f} to {spread.max:,.0f}"


def _table(title: str, head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number in (0, 5) else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _markdown_table(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
