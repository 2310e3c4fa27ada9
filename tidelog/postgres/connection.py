"""A connection to PostgreSQL that is made when it is first needed, and anew after it broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection

from tidelog.errors import Unavailable
from tidelog.postgres.trouble import reason

CONNECT_TIMEOUT_S = 5


class Reconnecting:
    """A connection that comes back. One thread uses it.

    `name` is how the server lists it, `options` are the settings of its session (`-c …`),
    `trouble` begins the text of every Unavailable. `begin` is done on each new connection before
    anything else; statements are prepared after `prepare_after` uses.
    """

    def __init__(
        self,
        dsn: str,
        *,
        name: str,
        options: str,
        trouble: str = "PostgreSQL",
        begin: Callable[[Connection[Any]], None] = lambda _: None,
        prepare_after: int = 5,
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._options = options
        self._trouble = trouble
        self._begin = begin
        self._prepare_after = prepare_after
        self._connection: Connection[Any] | None = None

    @contextmanager
    def use(self) -> Iterator[Connection[Any]]:
        """The connection, which commits each statement by itself; Unavailable where it fails.

        After any error it is given up: nothing that was under way on it can end later.
        """
        try:
            yield self._opened()
        except psycopg.Error as error:
            self.close()
            raise Unavailable(f"{self._trouble}: {reason(error)}") from error

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """One transaction on the connection."""
        with self.use() as connection, connection.transaction():
            yield connection

    def close(self) -> None:
        """Close it; it is made again when it is used again."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _opened(self) -> Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name=self._name[:63],  # as long as PostgreSQL lets it be
                options=self._options,
                prepare_threshold=self._prepare_after,
                # A server that has gone without a word is noticed in 11 s.
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
            )
            self._begin(self._connection)
        return self._connection
