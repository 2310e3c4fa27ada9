"""Every aggregate of the shop, as one explicit list."""

from __future__ import annotations

from typing import Any

from command_service.inventory import inventory
from command_service.notifications import notifications
from command_service.operations import operations
from command_service.orders import orders
from command_service.payments import payments
from command_service.returns import returns
from command_service.shipping import shipping
from tidelog import Aggregate

AGGREGATES: tuple[Aggregate[Any, Any, Any], ...] = (
    orders,
    inventory,
    payments,
    shipping,
    returns,
    notifications,
    operations,
)
