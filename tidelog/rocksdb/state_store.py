"""A partition's checkpoint in RocksDB: one atomic WriteBatch per commit.

Keys: `e` + aggregate id → entry; `s` + command id → seen command; `t` + time + command id → the
order in which seen commands expire; `meta` → anchor and identity.

RocksDB's write-ahead log is off, for Kafka is ours: a write costs half, and after a kill the
checkpoint is that of the last memtable on disk, at most WRITE_BUFFER_BYTES behind. It is whole all
the same, because a batch is never split over memtables and they reach the disk in their order.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteOptions

from tidelog.engine.ports import Anchor, Checkpoint, Entry, Seen
from tidelog.errors import TopicRecreated
from tidelog.message import State

EXPIRED_PER_CHECKPOINT_MAX = 100_000
BLOCK_CACHE_BYTES = 8 * 1024 * 1024
WRITE_BUFFER_BYTES = 16 * 1024 * 1024


class _Meta(msgspec.Struct, frozen=True):
    topic_id: str
    definitions: str
    sequence: int
    offset: int
    message_id: str


class RocksStateStore:
    """The StateStore port on RocksDB.

    A checkpoint of other definitions, or one that cannot be read, is thrown away: the log rebuilds
    it. A checkpoint of another topic id raises TopicRecreated: then the log itself is another one.
    """

    def __init__(
        self, path: Path, state_type: type[State], *, topic_id: str, definitions: str
    ) -> None:
        self._path = path
        self._topic_id = topic_id
        self._definitions = definitions
        self._entry_decoder = msgspec.msgpack.Decoder(tuple[int, int, state_type])  # type: ignore[valid-type]
        self._seen_decoder = msgspec.msgpack.Decoder(Seen)
        self._encode = msgspec.msgpack.Encoder().encode
        self._write_options = _write_options()
        self.discarded = False
        self._db = self._open()
        self._anchor = self._read_anchor()

    def anchor(self) -> Anchor:
        """How far the checkpoint reaches."""
        return self._anchor

    def entry(self, key: str) -> Entry | None:
        """The aggregate's entry, if it has any events."""
        raw = self._db.get(b"e" + key.encode())
        return Entry(*self._entry_decoder.decode(raw)) if raw is not None else None

    def seen(self, command_id: str) -> Seen | None:
        """The command's answer, if its events are in the log and within the window."""
        raw = self._db.get(b"s" + command_id.encode())
        return self._seen_decoder.decode(raw) if raw is not None else None

    def write(self, checkpoint: Checkpoint) -> None:
        """Save everything in the checkpoint, or nothing."""
        batch = WriteBatch(raw_mode=True)
        encode = self._encode
        for key, entry in checkpoint.entries.items():
            batch.put(
                b"e" + key.encode(),
                encode((entry.version, entry.sequence, entry.state)),
            )
        for command_id, seen in checkpoint.seen.items():
            batch.put(b"s" + command_id.encode(), encode(seen))
            batch.put(b"t" + seen.recorded_at.encode() + command_id.encode(), b"")
        self._expire(batch, checkpoint.expire_before)
        meta = _Meta(self._topic_id, self._definitions, *checkpoint.anchor)
        batch.put(b"meta", encode(meta))
        self._db.write(batch, self._write_options)
        self._anchor = checkpoint.anchor

    def clear(self) -> None:
        """Forget everything."""
        self._db.close()
        shutil.rmtree(self._path, ignore_errors=False)
        self._db = self._open()
        self._anchor = Anchor()

    def close(self) -> None:
        """Flush and release the files."""
        self._db.close()

    def _open(self) -> Any:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return Rdict(str(self._path), _options())
        except Exception as error:
            if "lock" in str(error).lower():
                raise  # another process has it: that is no corruption
            self.discarded = True
            shutil.rmtree(self._path, ignore_errors=False)
            return Rdict(str(self._path), _options())

    def _read_anchor(self) -> Anchor:
        raw = self._db.get(b"meta")
        if raw is None:
            return Anchor()
        meta = _decoded(raw)
        if meta is not None and meta.topic_id != self._topic_id:
            self._db.close()
            raise TopicRecreated(
                f"the events of checkpoint {self._path} were in a topic that is gone; a new one "
                "has its name. If so intended, delete the checkpoint; if not, restore the topic."
            )
        if meta is not None and meta.definitions == self._definitions:
            return Anchor(meta.sequence, meta.offset, meta.message_id)
        self.discarded = True
        self.clear()
        return Anchor()

    def _expire(self, batch: Any, before: str) -> None:
        """Forget the oldest seen commands, a bounded number at a time."""
        if not before:
            return
        limit = b"t" + before.encode()
        iterator = self._db.iter()
        iterator.seek(b"t")
        for _ in range(EXPIRED_PER_CHECKPOINT_MAX):
            if not iterator.valid() or iterator.key() >= limit:
                return
            key = iterator.key()
            batch.delete(key)
            command_id = key[len(limit) :]
            seen = self.seen(command_id.decode())
            if seen is not None and seen.recorded_at < before:  # else the id has come back since
                batch.delete(b"s" + command_id)
            iterator.next()


def _decoded(raw: bytes) -> _Meta | None:
    try:
        return msgspec.msgpack.decode(raw, type=_Meta)
    except msgspec.DecodeError:
        return None


def _write_options() -> Any:
    options: Any = _untyped(WriteOptions())
    options.disable_wal = True
    return options


def _untyped(value: object) -> Any:
    """The value as rocksdict has it, not as its stub says."""
    return value


def _options() -> Any:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    # Most look-ups are for command ids that nobody has seen: a filter answers those.
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(0.1)
    tables = BlockBasedOptions()
    tables.set_bloom_filter(10, False)
    tables.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    options.set_block_based_table_factory(tables)
    return options
