"""The shop's read models, one per file, and the process that keeps them."""

from collections.abc import Sequence

from projectors.customer_summary import customer_summary
from projectors.daily_sales import daily_sales
from projectors.event_index import event_index
from projectors.order_detail import order_detail
from projectors.order_summary import order_summary
from projectors.payment_status import payment_status
from projectors.return_status import return_status
from projectors.shipment_status import shipment_status
from projectors.stock_level import stock_level
from tidelog.definitions import AnyProjection

PROJECTIONS: Sequence[AnyProjection] = (
    order_summary,
    order_detail,
    stock_level,
    payment_status,
    shipment_status,
    return_status,
    customer_summary,
    daily_sales,
    event_index,
)
"""Every read model, in the order in which the documentation lists them."""

__all__ = ["PROJECTIONS"]
