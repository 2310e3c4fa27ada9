"""How every command speaks: results on stdout, everything else on stderr, exit codes that mean it.

0 fine, 1 a difference or a failure, 2 usage, 3 unreachable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
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


def say(text: str) -> None:
    """A line for the person: progress, notices, errors."""
    print(text, file=sys.stderr, flush=True)


def show_json(content: Mapping[str, Any]) -> None:
    """The result, as one line of JSON."""
    print(json.dumps(content, ensure_ascii=False), flush=True)


def show_items(items: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """A list: `{"items": […]}`, or a table with these columns."""
    if as_json:
        show_json({"items": list(items)})
        return
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for item in items:
        table.add_row(*(str(item.get(column, "")) for column in columns))
    Console().print(table)
