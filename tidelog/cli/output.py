"""How every command speaks: results on stdout, everything else on stderr, exit codes that mean it.

0 fine, 1 a difference or a failure, 2 usage, 3 unreachable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

FINE = 0
FAILURE = 1
USAGE = 2
UNREACHABLE = 3

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Dev = Annotated[
    Path | None,
    typer.Option("--dev", help="The dev.json of a running stack [TIDELOG_DEV]."),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data", envvar="TIDELOG_DATA", file_okay=False, help="The stack's data directory."
    ),
]
DATA_DEFAULT = Path(".tidelog")
NOT_RUNNING = "start the stack with ./dev up, or name a running one with --dev FILE"
"""What to do where a part of the system does not answer."""
PROSE_WIDTH_MIN = 30
"""How narrow a column of prose may become, in cells of the terminal."""
COLUMN_GAP = 2


def say(text: str) -> None:
    """A line for the person: progress, notices, errors."""
    print(text, file=sys.stderr, flush=True)


def show_json(content: Mapping[str, Any]) -> None:
    """The result, as one line of JSON."""
    print(json.dumps(content, ensure_ascii=False), flush=True)


def show_one(content: Mapping[str, Any], as_json: bool) -> None:
    """One thing with all that belongs to it: on one line for a program, indented for a person."""
    if as_json:
        show_json(content)
        return
    print(json.dumps(content, indent=2, ensure_ascii=False), flush=True)


def show_items(
    items: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    as_json: bool,
    prose: Collection[str] = (),
) -> None:
    """A list: `{"items": […]}`, or a table with these columns.

    A value stands whole on its line, so that an id can be copied: only columns of `prose` are
    folded, and only on a terminal that is too narrow for them.
    """
    if as_json:
        show_json({"items": list(items)})
        return
    rows = [[_cell(item.get(column)) for column in columns] for item in items]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column not in prose, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Values are shown as they are: a key may read [red], or :tea:.
    console = Console(markup=False, emoji=False, highlight=False)
    console.width = _table_width(rows, columns, prose, console.width)
    console.print(table)


def _table_width(
    rows: Sequence[Sequence[str]], columns: Sequence[str], prose: Collection[str], terminal: int
) -> int:
    """As wide as the table needs; on a terminal no wider than it, as far as prose can be folded."""
    widths = [max(map(cell_len, cells)) + COLUMN_GAP for cells in zip(columns, *rows, strict=True)]
    if not sys.stdout.isatty():
        return sum(widths)
    least = PROSE_WIDTH_MIN + COLUMN_GAP
    return max(
        terminal,
        sum(
            min(width, least) if column in prose else width
            for column, width in zip(columns, widths, strict=True)
        ),
    )


def _cell(value: object) -> str:
    """A value as a table shows it; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
