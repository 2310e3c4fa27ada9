"""Which service answers which path, and for whom. The tables are data: read them and you know it.

While authentication is on, a path that is not listed is answered to nobody, and a command that is
not listed is let through for callers with the scope `service` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.caller import CUSTOMER, MERCHANT, OPERATOR, SCOPES, SERVICE


class Upstream(Enum):
    """The services behind the gateway."""

    COMMANDS = "command_service"
    QUERIES = "query_service"


class Own(Enum):
    """What of it a customer may reach; to the other scopes this is nothing."""

    EVERYTHING = "everything"
    ORDER = "the order that the path names"
    RETURN = "the return that the path names"
    CUSTOMER = "the customer that the path names"
    ORDERS = "the list of their own orders"
    NEW_ORDER = "an order for themselves"
    CHECKOUT = "an order for themselves, which the path does not name"
    NEW_RETURN = "a return of an order of theirs"
    OPERATION = "what they have asked for themselves"


class Access(NamedTuple):
    """Who may: callers with any of these scopes. Without scopes everyone, unasked."""

    scopes: frozenset[str]
    own: Own = Own.EVERYTHING
    signed: bool = False
    """Whether the body's `operator` must be the caller's own name."""


class Kept(NamedTuple):
    """The answer shows one read model and nothing of the caller: it may be kept for all."""

    projection: str
    context: str = ""
    """Where the id in the path is a key of this context, and its row is folded from that alone."""

    any_query: bool = False
    """Whether whatever the query asks for is of this read model."""


PUBLIC: Final = Access(frozenset())
ALL: Final = Access(SCOPES)
STAFF: Final = Access(frozenset((MERCHANT, OPERATOR, SERVICE)))
OPERATORS: Final = Access(frozenset((OPERATOR, SERVICE)))
SERVICES: Final = Access(frozenset((SERVICE,)))
OWN_ORDER: Final = Access(SCOPES, Own.ORDER)
OWN_RETURN: Final = Access(SCOPES, Own.RETURN)
OWN_SUMMARY: Final = Access(SCOPES, Own.CUSTOMER)
SIGNED: Final = Access(frozenset((OPERATOR, SERVICE)), signed=True)

assert CUSTOMER not in STAFF.scopes | OPERATORS.scopes | SERVICES.scopes

ORDER: Final = Kept("order_detail", "orders")
STOCK_LEVEL: Final = Kept("stock_level", "inventory")
PAYMENT: Final = Kept("payment_status", "payments")
SHIPMENT: Final = Kept("shipment_status", "shipping")
RETURN: Final = Kept("return_status", "returns")
# These show rows of many keys, or a row that many keys feed.
SUMMARY: Final = Kept("customer_summary")
ORDERS: Final = Kept("order_summary", any_query=True)
STOCK: Final = Kept("stock_level", any_query=True)
SALES: Final = Kept("daily_sales", any_query=True)


class RoutedPath(NamedTuple):
    """A method and a path; `{name}` stands for one segment that is not empty."""

    method: str
    template: str
    upstream: Upstream
    access: Access
    streams: bool = False
    """Whether the answer has no end of its own."""

    kept: Kept | None = None
    """Whether the answer may be kept, and what it shows then."""


ROUTES: Final = (
    # Who may send which command stands below; each line is looked at.
    RoutedPath("POST", "/commands", Upstream.COMMANDS, STAFF),
    # Whose it is the command service knows: it hears who may be told theirs only.
    RoutedPath("GET", "/operations/{id}", Upstream.COMMANDS, Access(SCOPES, Own.OPERATION)),
    RoutedPath("GET", "/openapi.json", Upstream.COMMANDS, PUBLIC),
    RoutedPath("GET", "/docs", Upstream.COMMANDS, PUBLIC),
    # But for the pages of the gateway's own problems.
    RoutedPath("GET", "/problems", Upstream.COMMANDS, PUBLIC),
    RoutedPath("GET", "/problems/{name}", Upstream.COMMANDS, PUBLIC),
    RoutedPath("GET", "/orders", Upstream.QUERIES, Access(SCOPES, Own.ORDERS), kept=ORDERS),
    RoutedPath("GET", "/orders/{id}", Upstream.QUERIES, OWN_ORDER, kept=ORDER),
    RoutedPath("GET", "/orders/{id}/history", Upstream.QUERIES, OWN_ORDER),
    RoutedPath("GET", "/orders/{id}/live", Upstream.QUERIES, OWN_ORDER, streams=True),
    RoutedPath("GET", "/stock", Upstream.QUERIES, ALL, kept=STOCK),
    RoutedPath("GET", "/stock/{sku}", Upstream.QUERIES, ALL, kept=STOCK_LEVEL),
    # It names the orders of others.
    RoutedPath("GET", "/stock/{sku}/history", Upstream.QUERIES, STAFF),
    RoutedPath("GET", "/payments/{order_id}", Upstream.QUERIES, OWN_ORDER, kept=PAYMENT),
    RoutedPath("GET", "/payments/{order_id}/history", Upstream.QUERIES, OWN_ORDER),
    RoutedPath("GET", "/shipments/{order_id}", Upstream.QUERIES, OWN_ORDER, kept=SHIPMENT),
    RoutedPath("GET", "/shipments/{order_id}/history", Upstream.QUERIES, OWN_ORDER),
    RoutedPath("GET", "/returns/{id}", Upstream.QUERIES, OWN_RETURN, kept=RETURN),
    RoutedPath("GET", "/returns/{id}/history", Upstream.QUERIES, OWN_RETURN),
    RoutedPath("GET", "/customers/{id}/summary", Upstream.QUERIES, OWN_SUMMARY, kept=SUMMARY),
    RoutedPath("GET", "/sales/daily", Upstream.QUERIES, STAFF, kept=SALES),
    RoutedPath("GET", "/metrics/live", Upstream.QUERIES, STAFF, streams=True),
    RoutedPath("GET", "/sagas", Upstream.QUERIES, OPERATORS),
    RoutedPath("GET", "/sagas/{id}", Upstream.QUERIES, OPERATORS),
    RoutedPath("GET", "/events", Upstream.QUERIES, OPERATORS),
    RoutedPath("GET", "/projections", Upstream.QUERIES, OPERATORS),
    RoutedPath("GET", "/parked", Upstream.QUERIES, OPERATORS),
    # Last, so that a path above with another method is answered as what it is.
    RoutedPath("POST", "/{context}/{id}/{command}", Upstream.COMMANDS, ALL),
)

COMMANDS: Final[Mapping[str, Access]] = MappingProxyType(
    {
        "orders/place-order": Access(SCOPES, Own.NEW_ORDER),
        "orders/cancel-order": OWN_ORDER,
        "inventory/receive-stock": STAFF,
        "returns/request-return": Access(SCOPES, Own.NEW_RETURN),
        "returns/approve-return": STAFF,
        "returns/refuse-return": STAFF,
        "returns/receive-returned-goods": STAFF,
        "operations/decide-parked": SIGNED,
        # What the sagas and effects send: of people, nobody.
        **dict.fromkeys(
            (
                "orders/mark-order-reserved",
                "orders/mark-order-paid",
                "orders/confirm-order",
                "orders/complete-cancellation",
                "orders/mark-order-delivered",
                "orders/mark-order-returned",
                "inventory/reserve-stock",
                "inventory/release-stock",
                "inventory/sell-stock",
                "inventory/return-stock",
                "inventory/withdraw-return",
                "payments/request-payment",
                "payments/record-payment-captured",
                "payments/record-payment-declined",
                "payments/record-payment-voided",
                "payments/void-payment",
                "payments/request-refund",
                "payments/record-refund",
                "shipping/request-shipment",
                "shipping/record-shipment-arranged",
                "shipping/record-shipment-refused",
                "shipping/cancel-shipment",
                "shipping/record-dispatched",
                "shipping/record-delivered",
                "returns/issue-return-label",
                "returns/complete-return",
                "returns/fail-return",
                "notifications/request-notification",
                "notifications/record-notification-sent",
                "notifications/record-notification-failed",
            ),
            SERVICES,
        ),
    }
)
"""Who may send which command, through any path."""
