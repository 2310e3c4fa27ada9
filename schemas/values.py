"""The values that messages of several contexts are made of, with the bounds that hold everywhere.

Amounts are integers in the minor unit of their currency: 1999 is 19.99 EUR, and 1999 JPY. Text is
kept as it was given, neither trimmed nor normalised; whoever shows it escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Annotated, Literal

from msgspec import Meta

from tidelog.message import Id, Message

TOTAL_MAX = 2**53 - 1
"""The largest whole number that every JSON reader keeps exact."""

LINES_MAX = 100

# `(?![\s\S])` is the end of the text in every dialect; `$` would let a trailing newline pass.
_CONTROL = r"\x00-\x1f\x7f"
_ONE_LINE = rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*(?![\s\S])"

Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]
"""How many pieces: 1 to 1,000,000."""

Count = Annotated[int, Meta(ge=0, le=TOTAL_MAX)]
"""A number of pieces that may be zero."""

UnitPrice = Annotated[int, Meta(ge=0, le=10**12)]
"""The price of one piece in minor units: 0 to 10^12."""

Amount = Annotated[int, Meta(ge=0, le=TOTAL_MAX)]
"""An amount of money in minor units: 0 to 2^53 - 1."""

Name = Annotated[str, Meta(min_length=1, max_length=1000, pattern=_ONE_LINE)]
"""One line of 1 to 1,000 characters, at least one of them visible, no control characters."""

PostalCode = Annotated[str, Meta(min_length=1, max_length=1000, pattern=_ONE_LINE)]
"""A postal code as the country writes it: one line, as long as any text may be."""

Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}(?![\s\S])")]
"""A country in the form of ISO 3166-1 alpha-2: two capital letters."""

CurrencyCode = Annotated[str, Meta(pattern=r"^[A-Z]{3}(?![\s\S])")]
"""A currency in the form of ISO 4217: three capital letters.

Events and internal commands hold this form: the log is for ever, and a currency that is withdrawn
one day must still be read. Commands that people send hold `Currency`, the list itself.
"""

Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(?![\s\S])")]
"""A calendar day in UTC: `2026-07-31`."""

Currency = Literal[
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT",
    "BHD", "BIF", "BMD", "BND", "BOB", "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD",
    "CDF", "CHF", "CLP", "CNY", "COP", "CRC", "CUP", "CVE", "CZK", "DJF", "DKK", "DOP",
    "DZD", "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD",
    "GNF", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF", "IDR", "ILS", "INR", "IQD", "IRR",
    "ISK", "JMD", "JOD", "JPY", "KES", "KGS", "KHR", "KMF", "KPW", "KRW", "KWD", "KYD",
    "KZT", "LAK", "LBP", "LKR", "LRD", "LSL", "LYD", "MAD", "MDL", "MGA", "MKD", "MMK",
    "MNT", "MOP", "MRU", "MUR", "MVR", "MWK", "MXN", "MYR", "MZN", "NAD", "NGN", "NIO",
    "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR",
    "RON", "RSD", "RUB", "RWF", "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE",
    "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB", "TJS", "TMT", "TND", "TOP",
    "TRY", "TTD", "TWD", "TZS", "UAH", "UGX", "USD", "UYU", "UZS", "VED", "VES", "VND",
    "VUV", "WST", "XAF", "XCD", "XCG", "XOF", "XPF", "YER", "ZAR", "ZMW", "ZWG",
]  # fmt: skip
"""The currencies of ISO 4217 that money is paid in (no funds, metals or test codes)."""


class OrderLine(Message):
    """One line of an order: so many pieces of a SKU at a price."""

    sku: Id
    quantity: Quantity
    unit_price: UnitPrice


class GoodsLine(Message):
    """So many pieces of a SKU, with no price: what is shipped or sent back."""

    sku: Id
    quantity: Quantity


class Address(Message):
    """Where a parcel goes."""

    name: Name
    street: Name
    city: Name
    postal_code: PostalCode
    country: Country


OrderLines = Annotated[tuple[OrderLine, ...], Meta(min_length=1, max_length=LINES_MAX)]
"""The 1 to 100 lines of an order."""

GoodsLines = Annotated[tuple[GoodsLine, ...], Meta(min_length=1, max_length=LINES_MAX)]
"""The 1 to 100 lines of a parcel."""


def total_of(lines: Iterable[OrderLine]) -> int:
    """What the lines cost together, in minor units."""
    return sum(line.quantity * line.unit_price for line in lines)


# The checks below raise ValueError from `__post_init__`, which msgspec reports as a breach of form
# (422). They end like its own messages, so that the caller is told the place.


def check_each_sku_once(lines: Iterable[OrderLine | GoodsLine]) -> None:
    """Raise ValueError where two lines name the same SKU."""
    skus = [line.sku for line in lines]
    if len(set(skus)) != len(skus):
        raise ValueError("Expected each SKU on one line only - at `$.lines`")


def check_total(lines: Iterable[OrderLine]) -> None:
    """Raise ValueError where the lines cost more than an amount can hold."""
    if total_of(lines) > TOTAL_MAX:
        raise ValueError("Expected a total of at most 2^53 - 1 - at `$.lines`")


def check_day(day: str, field: str) -> None:
    """Raise ValueError where the calendar has no such day."""
    try:
        date.fromisoformat(day)
    except ValueError:
        raise ValueError(f"Expected a day of the calendar - at `$.{field}`") from None
