"""Given, when, then: tests of aggregates and projections as sentences, with no mocks.

    given(orders, placed).when(cancel).then(OrderCancellationRequested(...))
    given(orders).when(cancel).rejected(OrderNeverPlaced)
    given(orders, placed).when(place).then()
    given(order_summary, placed).then_row("o-1", OrderSummary(...))
    given(fulfilment, placed).when(refused).then(CancelOrder(...))
    given(fulfilment, placed).after(timedelta(minutes=2)).then(CancelOrder(...))

Random commands, for properties: `tidelog.testing.strategies` (needs hypothesis).
"""

from tidelog.testing._aggregates import GivenAggregate, Outcome
from tidelog.testing._given import given
from tidelog.testing._projections import GivenProjection
from tidelog.testing._sagas import GivenSaga, SagaOutcome

__all__ = [
    "GivenAggregate",
    "GivenProjection",
    "GivenSaga",
    "Outcome",
    "SagaOutcome",
    "given",
]
