"""Tables of read models, made from their row types by SQLAlchemy Core.

A read model lives in `name__v{version}_g{generation}`; readers use the view `name`, which shows
the generation that serves. Each row also has the four columns that the engine keeps.
"""

from __future__ import annotations

import datetime as dt
import decimal
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Index,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql import ClauseElement
from sqlalchemy.types import TypeEngine

from tidelog.engine.folding import StoredRow
from tidelog.errors import DefinitionError
from tidelog.projection import Projection

NAME_BYTES_MAX = 63
FILL_PERCENT = 70
KEPT_COLUMNS = ("version", "position", "created_at", "updated_at")

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_SCALARS: Mapping[Any, Callable[[], TypeEngine[Any]]] = {
    str: Text,
    int: BigInteger,
    bool: Boolean,
    float: Double,
    bytes: LargeBinary,
    decimal.Decimal: Numeric,
    dt.date: Date,
    dt.datetime: lambda: DateTime(timezone=True),
}


class Generation(NamedTuple):
    """Which of a projection's tables: its declared version and its generation."""

    projection: str
    version: int
    generation: int

    @property
    def table(self) -> str:
        """The name of its table: `order_summary__v1_g1`."""
        return f"{self.projection}__v{self.version}_g{self.generation}"


@dataclass(frozen=True)
class Field:
    """One column of a row type, and how its values go in and come out."""

    name: str
    column: Column[Any]
    cast: str
    encode: Callable[[Any], Any] | None
    decode: Callable[[Any], Any] | None


class ReadModelTable:
    """The table of one generation of a projection."""

    def __init__(self, projection: Projection[Any, Any], generation: int, schema: str) -> None:
        self.generation = Generation(projection.name, projection.version, generation)
        self.key = projection.key
        self.schema = schema
        self._row = projection.row
        self._fields = _fields(projection)
        self.table = Table(
            checked_name(self.generation.table),
            MetaData(schema=schema),
            *(field.column for field in self._fields),
            Column("version", BigInteger, nullable=False),
            Column("position", Text, nullable=False),
            Column("created_at", DateTime(timezone=True), nullable=False),
            Column("updated_at", DateTime(timezone=True), nullable=False),
            # Most writes are updates: room in the page keeps them out of the indexes (HOT).
            postgresql_with={"fillfactor": FILL_PERCENT},
        )
        for columns in projection.indexes:
            self._index(columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns: the row's, then those that the engine keeps."""
        return tuple(column.name for column in self.table.columns)

    @property
    def casts(self) -> tuple[str, ...]:
        """The type of each column, as an array parameter is cast to."""
        return (*(field.cast for field in self._fields), *_KEPT_CASTS)

    def create_statements(self) -> list[str]:
        """The statements that create the table and its indexes where they are missing."""
        indexes = sorted(self.table.indexes, key=lambda index: str(index.name))
        return [
            compiled(CreateTable(self.table, if_not_exists=True)),
            *(compiled(CreateIndex(index, if_not_exists=True)) for index in indexes),
        ]

    def column_values(self, rows: Sequence[StoredRow]) -> list[list[Any]]:
        """The rows turned by a quarter: one list per column."""
        values = [_column(field, rows) for field in self._fields]
        values.append([row.version for row in rows])
        values.append([row.position for row in rows])
        values.append([row.created_at for row in rows])
        values.append([row.updated_at for row in rows])
        return values

    def stored_row(self, record: Sequence[Any]) -> StoredRow:
        """A row as the engine knows it, from the values of all columns."""
        values = {}
        for field, value in zip(self._fields, record, strict=False):
            decode = field.decode
            values[field.name] = value if decode is None or value is None else decode(value)
        version, position, created_at, updated_at = record[len(self._fields) :]
        return StoredRow(self._row(**values), version, position, created_at, updated_at)

    def _index(self, columns: Sequence[str]) -> None:
        unknown = [name for name in columns if name not in self.table.columns]
        if unknown:
            raise DefinitionError(
                f"{self.generation.projection}: an index names {unknown[0]!r}, "
                f"which is no column; the columns are {', '.join(self.columns)}"
            )
        name = checked_name(f"{self.generation.table}_{'_'.join(columns)}")
        Index(name, *(self.table.columns[column] for column in columns))


_KEPT_CASTS = ("bigint", "text", "timestamptz", "timestamptz")


def compiled(statement: ClauseElement) -> str:
    """The statement as PostgreSQL reads it."""
    return str(statement.compile(dialect=_DIALECT)).strip()


def _fields(projection: Projection[Any, Any]) -> tuple[Field, ...]:
    hints = typing.get_type_hints(projection.row, include_extras=True)
    names = projection.row.__struct_fields__
    taken = [name for name in names if name in KEPT_COLUMNS]
    if taken:
        raise DefinitionError(
            f"{projection.name}: {projection.row.__name__}.{taken[0]} is kept by the engine; "
            "leave it out of the row type"
        )
    return tuple(_field(projection, name, hints[name]) for name in names)


def _field(projection: Projection[Any, Any], name: str, hint: Any) -> Field:
    kind, nullable = _unwrapped(hint)
    is_key = name == projection.key
    if is_key and (kind is not str or nullable):
        raise DefinitionError(f"{projection.name}: the key {name!r} must be a string")
    make = _SCALARS.get(kind)
    if is_key:
        # Byte order: the same on every machine, and the fastest to compare.
        column_type: TypeEngine[Any] = Text(collation="C")
    else:
        column_type = make() if make else JSONB()
    column: Column[Any] = Column(name, column_type, primary_key=is_key, nullable=nullable)
    if make is None:
        decoder = msgspec.json.Decoder(hint)
        return Field(name, column, "jsonb", _encode_json, decoder.decode)
    cast = str(make().compile(dialect=_DIALECT)).lower()
    return Field(name, column, cast, None, None)


def _unwrapped(hint: Any) -> tuple[Any, bool]:
    """The plain type of a field and whether it may be None."""
    if get_origin(hint) is typing.Annotated:
        return _unwrapped(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        nullable = len(members) < len(get_args(hint))
        return (_unwrapped(members[0])[0] if len(members) == 1 else hint), nullable
    if get_origin(hint) is Literal:
        kinds = {type(value) for value in get_args(hint)}
        return (kinds.pop() if len(kinds) == 1 else hint), False
    return hint, False


def _encode_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _column(field: Field, rows: Sequence[StoredRow]) -> list[Any]:
    name, encode = field.name, field.encode
    values = [getattr(row.row, name) for row in rows]
    if encode is None:
        return values
    return [None if value is None else encode(value) for value in values]


def checked_name(name: str) -> str:
    """The name; DefinitionError where PostgreSQL would cut it off."""
    if len(name.encode()) > NAME_BYTES_MAX:
        raise DefinitionError(
            f"{name!r} is longer than the {NAME_BYTES_MAX} bytes of a name in PostgreSQL"
        )
    return name
