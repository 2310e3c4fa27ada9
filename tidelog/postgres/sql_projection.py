"""The escape hatch: a projection that writes its own SQL instead of folding rows.

Everything else stays as it is: its table lives behind a view, in generations; its positions advance
in the transaction of its own writes, so each event is written exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection, sql

from tidelog.engine.reading import Fact
from tidelog.message import Context

Write = Callable[[Connection[Any], sql.Identifier, Sequence[Fact]], None]
"""Writes the events of one batch to the table, in the engine's transaction.

The events of one partition come in their order; each comes exactly once. It must not commit, and
what it writes may depend on the table and on the events, and on nothing else.
"""


@dataclass(frozen=True, kw_only=True)
class SqlProjection:
    """A read model by hand-written SQL.

    `columns` is what stands between the parentheses of CREATE TABLE; `indexes` are the lists of
    columns of its indexes.
    """

    name: str
    version: int
    contexts: Sequence[Context]
    columns: LiteralString
    write: Write
    indexes: Sequence[LiteralString] = ()
