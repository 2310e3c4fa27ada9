"""Reads a partition's log into its state, from the checkpoint to the end that was found.

Every record is judged (tidelog/engine/judge.py). The checkpoint itself is judged first: the log
must still hold the very event that it was taken at. If not, the checkpoint is thrown away and
everything is read, for the log is the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidelog.engine.judge import Verdict
from tidelog.engine.partition import PartitionState
from tidelog.engine.ports import Limits, MessageCodec, StoredRecord
from tidelog.errors import LogFork, LogHole


class Replay:
    """One partition's reading, over all of its takeovers. `offset` is the next one to read."""

    def __init__(
        self, state: PartitionState, codec: MessageCodec, limits: Limits, place: str
    ) -> None:
        self.offset = 0
        self.watermark = 0
        self.foreign_records = 0
        self.distrusted_checkpoints = 0
        self._state = state
        self._codec = codec
        self._limits = limits
        self._place = place
        self._anchor_checked = False
        self._hole_at = -1

    @property
    def complete(self) -> bool:
        """Whether everything below the watermark has been taken in."""
        return self.offset >= self.watermark

    def begin(self, watermark: int) -> None:
        """Begin to read from the checkpoint; offsets below `watermark` exist."""
        anchor = self._state.anchor
        self.watermark = watermark
        self.offset = max(anchor.offset, 0)
        self._hole_at = -1
        self._anchor_checked = anchor.sequence == 0
        if anchor.offset >= watermark:
            self._distrust_checkpoint()

    def take(self, records: Sequence[StoredRecord], position: int) -> None:
        """Take records in; `position` is the next offset to read, markers included.

        What lies beyond the watermark is somebody else's, and may be half a command. A hole is read
        again once; the same hole again raises LogHole, and a sequence given twice raises LogFork.
        """
        for record in records:
            if record.offset >= self.watermark:
                break
            if not (self._check_anchor(record) and self._take_one(record)):
                return  # `offset` says where to read on
            if self._state.unsaved() >= self._limits.replay_checkpoint_events:
                self._state.checkpoint()
        self.offset = min(position, self.watermark)
        if not self._anchor_checked and self.offset > self._state.anchor.offset:
            self._distrust_checkpoint()

    def _take_one(self, record: StoredRecord) -> bool:
        match self._state.replay(record, self._codec):
            case Verdict.NEXT | Verdict.REDELIVERY:
                return True
            case Verdict.FOREIGN:
                self.foreign_records += 1
                return True
            case Verdict.FORK:
                raise LogFork(self._where(record, "a sequence was given twice"))
            case Verdict.HOLE:
                if self._hole_at == record.offset:
                    raise LogHole(self._where(record, "events are missing before it"))
                self._hole_at = record.offset
                self.offset = self._state.anchor.offset + 1
                return False

    def _check_anchor(self, record: StoredRecord) -> bool:
        """Whether the log still holds the event that the checkpoint was taken at."""
        if self._anchor_checked:
            return True
        anchor = self._state.anchor
        message_id = dict(record.headers).get("ce_id")
        if record.offset != anchor.offset or message_id != anchor.message_id.encode():
            self._distrust_checkpoint()
            return False
        self._anchor_checked = True
        return True

    def _distrust_checkpoint(self) -> None:
        self.distrusted_checkpoints += 1
        self._state.reset()
        self._anchor_checked = True
        self.offset = 0

    def _where(self, record: StoredRecord, what: str) -> str:
        sequence = self._state.anchor.sequence
        return f"{self._place} offset {record.offset}: {what} (last good sequence {sequence})"
