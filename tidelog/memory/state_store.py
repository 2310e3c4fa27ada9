"""A checkpoint in memory. Each write is atomic; a crash may take what was not flushed yet."""

from __future__ import annotations

from tidelog.engine.ports import Anchor, Checkpoint, Entry, Seen


class MemoryStateStore:
    """A partition's checkpoint in two dictionaries.

    `lose_unflushed` gives back what the last `flush` saved, as a machine that lost power does;
    `corrupt` leaves an anchor and entries that no log has ever held.
    """

    def __init__(self) -> None:
        self._now = _Contents()
        self._flushed = _Contents()

    def anchor(self) -> Anchor:
        """How far the checkpoint reaches."""
        return self._now.anchor

    def entry(self, key: str) -> Entry | None:
        """The aggregate's entry, if it has any events."""
        return self._now.entries.get(key)

    def seen(self, command_id: str) -> Seen | None:
        """The command's answer, if its events are in the log and within the window."""
        return self._now.seen.get(command_id)

    def write(self, checkpoint: Checkpoint) -> None:
        """Save everything in the checkpoint, or nothing."""
        self._now.entries.update(checkpoint.entries)
        self._now.seen.update(checkpoint.seen)
        self._now.anchor = checkpoint.anchor
        if checkpoint.expire_before:
            self._now.expire(checkpoint.expire_before)

    def clear(self) -> None:
        """Forget everything."""
        self._now = _Contents()
        self._flushed = _Contents()

    # --- what tests may do to it --------------------------------------------------------------

    def flush(self) -> None:
        """Make all that was written so far durable."""
        self._flushed = self._now.copy()

    def lose_unflushed(self) -> None:
        """Lose all that was written since the last flush."""
        self._now = self._flushed.copy()

    def corrupt(self) -> None:
        """Leave nonsense where the checkpoint was: an anchor whose message is in no log."""
        anchor = self._now.anchor
        self._now.anchor = Anchor(anchor.sequence + 1, anchor.offset + 1, "of-no-log")
        for key, entry in self._now.entries.items():
            self._now.entries[key] = Entry(entry.version + 7, entry.sequence, entry.state)

    def keys(self) -> list[str]:
        """The aggregates in the checkpoint."""
        return list(self._now.entries)

    def command_ids(self) -> list[str]:
        """The seen commands in the checkpoint."""
        return list(self._now.seen)


class _Contents:
    """What the store holds at one time."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.seen: dict[str, Seen] = {}
        self.anchor = Anchor()

    def copy(self) -> _Contents:
        """The same contents, free to change."""
        copied = _Contents()
        copied.entries, copied.seen = dict(self.entries), dict(self.seen)
        copied.anchor = self.anchor
        return copied

    def expire(self, before: str) -> None:
        """Forget the seen commands that were recorded before that log time."""
        old = [key for key, seen in self.seen.items() if seen.recorded_at < before]
        for key in old:
            del self.seen[key]
