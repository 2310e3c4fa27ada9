"""The contract between the services: every command and event, and the contexts that own them.

Event names and fields are the storage format: the log keeps them for ever. Add a field only with a
default, never rename or remove one.
"""

from schemas.inventory import INVENTORY, ReceiveStock
from schemas.notifications import NOTIFICATIONS
from schemas.operations import OPERATIONS
from schemas.orders import ORDERS, CancelOrder, PlaceOrder
from schemas.payments import PAYMENTS
from schemas.returns import RETURNS, RequestReturn
from schemas.shipping import SHIPPING
from tidelog.message import Command, Context

CONTEXTS: tuple[Context, ...] = (
    ORDERS,
    INVENTORY,
    PAYMENTS,
    SHIPPING,
    RETURNS,
    NOTIFICATIONS,
    OPERATIONS,
)
"""Every context, in the order in which the documentation lists them."""

PUBLIC_COMMANDS: tuple[type[Command], ...] = (
    PlaceOrder,
    CancelOrder,
    ReceiveStock,
    RequestReturn,
)
"""What people may send. Every other command is internal: sagas, effects and operators send it."""

__all__ = [
    "CONTEXTS",
    "INVENTORY",
    "NOTIFICATIONS",
    "OPERATIONS",
    "ORDERS",
    "PAYMENTS",
    "PUBLIC_COMMANDS",
    "RETURNS",
    "SHIPPING",
]
