"""Tidelog: event-sourced CQRS on Apache Kafka.

Write messages, then pure functions over them; the platform does the rest.
"""

from tidelog.aggregate import Aggregate
from tidelog.errors import Rejected, TidelogError
from tidelog.message import (
    Command,
    Context,
    Event,
    Id,
    Message,
    Row,
    State,
    Text,
    replace,
)
from tidelog.position import Position
from tidelog.projection import Projection
from tidelog.saga import Deadline, Saga, Step, on, undo

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "Command",
    "Context",
    "Deadline",
    "Event",
    "Id",
    "Message",
    "Position",
    "Projection",
    "Rejected",
    "Row",
    "Saga",
    "State",
    "Step",
    "Text",
    "TidelogError",
    "on",
    "replace",
    "undo",
]
