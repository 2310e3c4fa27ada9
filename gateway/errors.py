"""What can be wrong between the gateway and a service.

TidelogError
├── BadGateway      502   the service is down, or broke off before it answered
└── GatewayTimeout  504   the service did not answer in time
"""

from __future__ import annotations

from tidelog.errors import TidelogError


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


GATEWAY_ERRORS: tuple[type[TidelogError], ...] = (BadGateway, GatewayTimeout)
