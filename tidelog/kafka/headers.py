"""The headers of a consumed message.

Kafka lets a header have any bytes for a name. Where one is no UTF-8, confluent-kafka hands out a
list and leaves an error behind; a plain call of `headers()` may overlook it, and then whatever is
called next fails instead. A call through `methodcaller` is always checked.
"""

from __future__ import annotations

from operator import methodcaller
from typing import Any

_read = methodcaller("headers")


def headers_of(message: Any) -> list[tuple[str, bytes | None]]:
    """The headers; none where a name is no UTF-8: such a record is not ours, and judged by that."""
    try:
        return _read(message) or []
    except (UnicodeDecodeError, SystemError):
        return []
