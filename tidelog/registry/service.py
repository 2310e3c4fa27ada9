"""The registry as one object: decides on the whole log, appends, reads back, answers.

Reads take the current store, a value, without waiting. Writes go one at a time: take over the
log if another writer did since, read to its end, decide, append, read back what landed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from tidelog.errors import TidelogError, Unavailable
from tidelog.registry import decisions
from tidelog.registry.errors import ErrorCode, RegistryRefusal
from tidelog.registry.log import Fenced, LogRecord, SchemaLog
from tidelog.registry.store import SchemaStore, Version

TAKEOVERS_MAX = 5
TAKEOVER_PAUSE_S_MAX = 0.05

Decide: TypeAlias = Callable[[SchemaStore], list[LogRecord]]


class RegistryService:
    """The one registry in this process; safe to call from several threads."""

    def __init__(self, log: SchemaLog) -> None:
        self._log = log
        self._store = SchemaStore()
        self._writes = threading.Lock()
        self._reads = threading.Lock()
        self._is_writer = False
        self.takeovers = 0
        self.trouble: str | None = "the log has not been read yet"

    @property
    def store(self) -> SchemaStore:
        """What this process knows now."""
        return self._store

    def open(self) -> None:
        """Make the log if it is missing and read all of it."""
        self._log.open()
        self.catch_up()

    def close(self) -> None:
        """Let go of the log; waits for the write and the read under way."""
        with self._writes, self._reads:
            self._log.close()

    def catch_up(self) -> None:
        """Fold what was appended since; `trouble` tells readiness how it went."""
        with self._reads:
            try:
                self._store = self._store.after(self._log.read())
            except Exception as error:
                known = isinstance(error, TidelogError)
                self.trouble = str(error) if known else "the log cannot be read"
                raise
            self.trouble = None

    def register(self, subject: str, schema_json: str, *, normalize: bool = False) -> Version:
        """Register a schema under a subject, or find it there."""
        text = decisions.accepted_text(schema_json, normalize=normalize)
        known = decisions.find(self._store, subject, text)
        if known is not None:
            return known
        after = self.write(lambda store: decisions.register(store, subject, text))
        version = decisions.find(after, subject, text)
        assert version is not None, "what was appended has been read back"
        return version

    def text(self, schema_id: int) -> str:
        """The schema of an id; an id not known yet is looked for in the log first."""
        if schema_id not in self._store.texts:
            self._fail_fast()
            self.catch_up()
        if schema_id not in self._store.texts:
            raise decisions.no_schema()
        return self._store.texts[schema_id]

    def lookup(
        self,
        subject: str,
        schema_json: str,
        *,
        normalize: bool = False,
        deleted: bool = False,
    ) -> Version:
        """The version of a subject that has this schema."""
        text = decisions.accepted_text(schema_json, normalize=normalize)
        if not self._store.versions(subject, deleted=deleted):
            raise decisions.no_subject(subject)
        version = decisions.find(self._store, subject, text, deleted=deleted)
        if version is None:
            raise decisions.no_schema()
        return version

    def check(self, subject: str, schema_json: str, wanted: str | None = None) -> list[str]:
        """Why the schema may not become the next version (of one version: why not after it)."""
        store, text = self._store, decisions.accepted_text(schema_json)
        against = (
            store.versions(subject)
            if wanted is None
            else [decisions.version_of(store, subject, wanted, deleted=False)]
        )
        return decisions.judge(store, subject, text, against)

    def write(self, decide: Decide) -> SchemaStore:
        """Decide on the whole log and append; the store as that write left it.

        Another writer in between means: take over and decide once more.
        """
        self._fail_fast()
        with self._writes:
            for _ in range(TAKEOVERS_MAX):
                try:
                    return self._write_once(decide)
                except Fenced:
                    self._is_writer = False
                    # Two that take over in lockstep would fence each other again.
                    time.sleep(random.uniform(0, TAKEOVER_PAUSE_S_MAX))
                except Unavailable:
                    self._is_writer = False
                    raise
        raise RegistryRefusal(
            ErrorCode.NOT_WRITER,
            "Other instances of the registry kept taking over the log. Try again.",
        )

    def _fail_fast(self) -> None:
        """While the log is out of reach, do not queue up to wait for it: the follower tries."""
        if self.trouble is not None:
            raise Unavailable(self.trouble)

    def _write_once(self, decide: Decide) -> SchemaStore:
        if not self._is_writer:
            self._log.take_over()
            self.takeovers += 1
            self.catch_up()
            self._is_writer = True
        before = self._store
        records = decide(before)
        if records:
            self._log.append(records)
            self.catch_up()
        return before.after(records)
