"""Which partition a key belongs to: murmur2, as Kafka's Java client computes it.

The algorithm is MurmurHash2 (Austin Appleby) with Kafka's seed; the sign bit is masked away.
"""

from __future__ import annotations

import struct
from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The unsigned 32-bit hash of the bytes."""
    length = len(data)
    whole = length >> 2
    h = _SEED ^ length
    for word in struct.unpack_from(f"<{whole}I", data):
        k = word * _M & _MASK
        h = (h * _M & _MASK) ^ ((k ^ (k >> 24)) * _M & _MASK)
    tail = data[whole << 2 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=65_536)
def partition_of(key: str, partitions: int) -> int:
    """The partition of the key among so many."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
