"""Given, when, then: tests of aggregates and projections as sentences, with no mocks.

    given(orders, placed).when(cancel).then(OrderCancellationRequested(...))
    given(orders).when(cancel).rejected(OrderNeverPlaced)
    given(orders, placed).when(place).then()
    given(order_summary, placed).then_row("o-1", OrderSummary(...))

Random commands, for properties: `tidelog.testing.strategies` (needs hypothesis).
"""

from tidelog.testing._aggregates import GivenAggregate, Outcome
from tidelog.testing._given import given
from tidelog.testing._projections import GivenProjection

__all__ = ["GivenAggregate", "GivenProjection", "Outcome", "given"]
