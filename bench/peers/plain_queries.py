"""R8's peer: a plain FastAPI route over psycopg's pool, with the SQL of our query.

In its strongest form: connections in autocommit (one round trip a query), prepared statements, a
pool that is full from the start and as large as ours.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

POOL_CONNECTIONS = int(os.environ["BENCH_POOL"])
BY_ID = (
    "SELECT order_id AS id, version, status, customer_id, currency, lines, total, ship_to, "
    "cancel_reason, created_at AS placed_at, updated_at, position "
    f'FROM "{os.environ["BENCH_SCHEMA"]}".order_detail WHERE order_id = %(id)s'
).encode()

pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
    os.environ["BENCH_DSN"],
    min_size=POOL_CONNECTIONS,
    max_size=POOL_CONNECTIONS,
    open=False,
    kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Open the pool."""
    await pool.open(wait=True)
    yield
    await pool.close()


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready() -> dict[str, str]:
    """Whether the server answers."""
    return {"status": "ready"}


@app.get("/orders/{order_id}")
async def order(order_id: str) -> dict[str, Any]:
    """One order, or 404."""
    async with pool.connection() as connection:
        cursor = await connection.execute(BY_ID, {"id": order_id})
        row: dict[str, Any] | None = await cursor.fetchone()
    if row is None:
        raise HTTPException(404)
    return row
