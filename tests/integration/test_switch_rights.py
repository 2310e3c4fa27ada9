"""Given people who may read a view, when its columns change, then they may still read it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.read_side import Added
from tests.rebuild_world import BulkWorld, bulk, bulk_registry, bulk_workers

__all__ = ["bulk", "bulk_registry", "bulk_workers"]


@pytest.fixture
def reader(bulk: BulkWorld) -> Iterator[str]:
    """A role that may look into the schema, and at nothing in it."""
    name = f"{bulk.site.schema}_reader"
    bulk.query(f'CREATE ROLE "{name}"')
    bulk.query(f'GRANT USAGE ON SCHEMA "{bulk.site.schema}" TO "{name}"')
    yield name
    bulk.query(f'DROP OWNED BY "{name}"')
    bulk.query(f'DROP ROLE "{name}"')


def may_read(bulk: BulkWorld, role: str, columns: str) -> bool:
    with psycopg.connect(bulk.site.dsn) as connection:
        connection.execute(f'SET ROLE "{role}"'.encode())
        try:
            connection.execute(f'SELECT {columns} FROM "{bulk.site.schema}".counter'.encode())
        except psycopg.errors.InsufficientPrivilege:
            return False
    return True


def test_rights_on_a_view_stay_where_its_columns_change(bulk: BulkWorld, reader: str) -> None:
    bulk.log.append(Added(counter_id="a", by=1))
    bulk.rebuild(prove=False)
    bulk.query(f'GRANT SELECT ON {{s}}.counter TO "{reader}"')

    bulk.rebuild(projections="NOW", prove=False)

    assert may_read(bulk, reader, "counter_id, largest")


def test_rights_on_single_columns_stay_on_these(bulk: BulkWorld, reader: str) -> None:
    bulk.log.append(Added(counter_id="a", by=1))
    bulk.rebuild(prove=False)
    bulk.query(f'GRANT SELECT (counter_id) ON {{s}}.counter TO "{reader}"')

    bulk.rebuild(projections="NOW", prove=False)

    assert may_read(bulk, reader, "counter_id")
    assert not may_read(bulk, reader, "total")
