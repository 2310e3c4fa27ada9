"""What the live windows count, and how: pure arithmetic, without Faust, clock or Kafka.

An event adds figures to every window that its log time (`ce_time`) lies in. Figures are added by
`plus`, which may be done in any order and grouping; so windows may be counted per partition and
added up later. `windows` says in one breath what the figures of a log are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from schemas.inventory import StockReservationRefused
from schemas.orders import OrderCancelled, OrderConfirmed, OrderPlaced
from schemas.payments import PaymentDeclined
from tidelog.engine.reading import Fact

SIZE_S: Final = 60
"""How long a window is: its counts are counts per minute."""

HOP_S: Final = 10
"""A window begins every so often, on whole tens of seconds since 1970."""

DURATION_S_MAX: Final = 900
"""A saga that took longer is counted, but its duration is in no mean, maximum or bucket."""

BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the durations' histogram; the last bucket holds what is above them all."""

_US = timedelta(microseconds=1)
_NO_BUCKETS = (0,) * (len(BUCKETS_S) + 1)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a window. Money is in minor units; durations are in microseconds."""

    placed: int = 0
    confirmed: int = 0
    cancelled: int = 0
    revenue: dict[str, int] = {}
    stock_refused: int = 0
    payment_declined: int = 0
    measured: int = 0
    duration_us_sum: int = 0
    duration_us_max: int = 0
    duration_buckets: tuple[int, ...] = _NO_BUCKETS
    slower: int = 0


NOTHING: Final = Figures()


def plus(one: Figures, other: Figures) -> Figures:
    """Both together."""
    return Figures(
        placed=one.placed + other.placed,
        confirmed=one.confirmed + other.confirmed,
        cancelled=one.cancelled + other.cancelled,
        revenue=_added(one.revenue, other.revenue),
        stock_refused=one.stock_refused + other.stock_refused,
        payment_declined=one.payment_declined + other.payment_declined,
        measured=one.measured + other.measured,
        duration_us_sum=one.duration_us_sum + other.duration_us_sum,
        duration_us_max=max(one.duration_us_max, other.duration_us_max),
        duration_buckets=(
            tuple(map(int.__add__, one.duration_buckets, other.duration_buckets))
            if other.measured
            else one.duration_buckets
        ),
        slower=one.slower + other.slower,
    )


def figures_of(fact: Fact, placed_at: datetime | None) -> Figures | None:
    """What one event adds; None where it adds nothing.

    `placed_at` is when the order of an OrderConfirmed was placed, or None where that is not known
    because it is longer ago than DURATION_S_MAX.
    """
    match fact.event:
        case OrderPlaced():
            return Figures(placed=1)
        case OrderConfirmed() as confirmed:
            return _confirmed(confirmed, placed_at, fact.recorded_at)
        case OrderCancelled():
            return Figures(cancelled=1)
        case StockReservationRefused():
            return Figures(stock_refused=1)
        case PaymentDeclined():
            return Figures(payment_declined=1)
        case _:
            return None


def window_starts(time: datetime) -> range:
    """Where each window begins that holds the time, in seconds since 1970."""
    last = int(time.timestamp()) // HOP_S * HOP_S
    return range(last - SIZE_S + HOP_S, last + HOP_S, HOP_S)


def windows(facts: Iterable[Fact]) -> dict[int, Figures]:
    """The figures of every window in which something happened, by its start.

    The events of an order must come in their order, others may come in any.
    """
    placed: dict[str, datetime] = {}
    found: dict[int, Figures] = {}
    for fact in facts:
        placed_at = None
        if isinstance(fact.event, OrderPlaced):
            placed[fact.event.order_id] = fact.recorded_at
        elif isinstance(fact.event, OrderConfirmed):
            placed_at = placed.get(fact.event.order_id)
        figures = figures_of(fact, placed_at)
        if figures is not None:
            for start in window_starts(fact.recorded_at):
                found[start] = plus(found.get(start, NOTHING), figures)
    return found


def document(start: int, figures: Figures) -> dict[str, Any]:
    """A window as it is shown. Durations are in seconds; a bucket counts up to its bound."""
    measured = figures.measured
    bounds: list[float | None] = [*BUCKETS_S, None]
    return {
        "from": instant(start),
        "to": instant(start + SIZE_S),
        "orders": {
            "placed": figures.placed,
            "confirmed": figures.confirmed,
            "cancelled": figures.cancelled,
        },
        "revenue": dict(sorted(figures.revenue.items())),
        "refusals": {
            "stock_refused": figures.stock_refused,
            "payment_declined": figures.payment_declined,
        },
        "placed_to_confirmed": {
            "count": measured,
            "mean_seconds": figures.duration_us_sum / measured / 1e6 if measured else None,
            "max_seconds": figures.duration_us_max / 1e6 if measured else None,
            "buckets": [
                {"to_seconds": bound, "count": count}
                for bound, count in zip(bounds, figures.duration_buckets, strict=True)
            ],
            "slower_than_measured": figures.slower,
        },
    }


def instant(seconds: int) -> str:
    """`2026-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _confirmed(event: OrderConfirmed, placed_at: datetime | None, at: datetime) -> Figures:
    revenue = {event.currency: event.total}
    if placed_at is None or at - placed_at > timedelta(seconds=DURATION_S_MAX):
        return Figures(confirmed=1, revenue=revenue, slower=1)
    # Two owners' clocks may differ by a little: no saga ends before it began.
    duration_us = max((at - placed_at) // _US, 0)
    return Figures(
        confirmed=1,
        revenue=revenue,
        measured=1,
        duration_us_sum=duration_us,
        duration_us_max=duration_us,
        duration_buckets=_bucket(duration_us),
    )


def _bucket(duration_us: int) -> tuple[int, ...]:
    """One duration as a histogram: 1 in the first bucket that takes it."""
    place = sum(duration_us > bound * 1e6 for bound in BUCKETS_S)
    return tuple(int(place == number) for number in range(len(_NO_BUCKETS)))


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    result = dict(one)
    for currency, amount in other.items():
        result[currency] = result.get(currency, 0) + amount
    return result
