"""A file that is read again when it changes: keys are rotated without a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from tidelog.errors import ConfigurationError
from tidelog.logging import get_logger

CHECK_EVERY_S: Final = 1.0
FILE_BYTES_MAX: Final = 1024 * 1024

Content = TypeVar("Content")
_log = get_logger("gateway")


class WatchedFile(Generic[Content]):
    """What a file says, at most CHECK_EVERY_S seconds old.

    A file that cannot be read at the start raises ConfigurationError. Later the last good content
    holds and the log says what is wrong: a slip in the file locks nobody out.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[bytes], Content],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._read = read
        self._now = now
        self._checked_at = now()
        try:
            self._mark: object = self._mark_now()
            self._content = self._load()
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None

    def content(self, *, fresh: bool = False) -> Content:
        """What the file says; `fresh` looks at once whether it has changed."""
        now = self._now()
        if fresh or now - self._checked_at >= CHECK_EVERY_S:
            self._checked_at = now
            self._look()
        return self._content

    def _look(self) -> None:
        try:
            mark = self._mark_now()
            if mark == self._mark:
                return
            # Whatever is wrong with this form of the file is said once.
            self._mark = mark
            self._content = self._load()
            _log.info("read anew", file=str(self._path))
        except (OSError, ConfigurationError) as error:
            _log.error("the file cannot be read; the last good one holds", exc_info=error)

    def _mark_now(self) -> object:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _load(self) -> Content:
        with self._path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise ConfigurationError(f"{self._path} is larger than {FILE_BYTES_MAX} bytes")
        try:
            return self._read(raw)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._path}: {error}") from None
