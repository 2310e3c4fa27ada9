"""Adapters in memory: real implementations of the ports for tests and for the simulation."""

from tidelog.memory.codec import MemoryCodec
from tidelog.memory.door import MemoryDoor
from tidelog.memory.log import (
    ConcurrentTransactions,
    InvalidTransaction,
    LogRefusal,
    MemoryLog,
    ProducerFenced,
)
from tidelog.memory.state_store import MemoryStateStore

__all__ = [
    "ConcurrentTransactions",
    "InvalidTransaction",
    "LogRefusal",
    "MemoryCodec",
    "MemoryDoor",
    "MemoryLog",
    "MemoryStateStore",
    "ProducerFenced",
]
