"""Checkpoints of partition owners on local disk."""

from tidelog.rocksdb.state_store import RocksStateStore

__all__ = ["RocksStateStore"]
