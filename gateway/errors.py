"""What can be wrong between the gateway and a service, and what the gateway itself refuses.

TidelogError
├── BadGateway             502   the service is down, or broke off before it answered
├── GatewayTimeout         504   the service did not answer in time
└── Rejected
    └── InsufficientStock  409   a checkout asks for more than there is
"""

from __future__ import annotations

from collections.abc import Mapping

from tidelog.errors import Rejected, TidelogError


class BadGateway(TidelogError):
    """The service behind the gateway is down, or broke off before it answered.

    Whether a command was carried out is not known: send it again with the same Idempotency-Key.
    """

    status = 502
    retry = True
    title = "The service did not answer"


class GatewayTimeout(TidelogError):
    """The service behind the gateway did not answer in time.

    Whether a command was carried out is not known: send it again with the same Idempotency-Key.
    """

    status = 504
    retry = True
    title = "The service took too long"


class InsufficientStock(Rejected):
    """There is too little in stock of what the checkout asks for. No order was placed."""

    def __init__(self, short: Mapping[int, int], as_of: str) -> None:
        """`short` has what is available by the number of the line, as of this position."""
        super().__init__()
        self.short = short
        self.as_of = as_of


GATEWAY_ERRORS: tuple[type[TidelogError], ...] = (BadGateway, GatewayTimeout, InsufficientStock)
