"""Who a caller is and what they may do, however they said it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

CUSTOMER: Final = "customer"
MERCHANT: Final = "merchant"
OPERATOR: Final = "operator"
SERVICE: Final = "service"
SCOPES: Final = frozenset((CUSTOMER, MERCHANT, OPERATOR, SERVICE))

# It travels inside as a header, and in the text of which a command's id is made.
_SUBJECT = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, kw_only=True)
class Caller:
    """`name` is what services hear. That of a person is never that of a machine."""

    name: str
    subject: str
    scopes: frozenset[str]


LOCAL: Final = Caller(name="local", subject="local", scopes=SCOPES)
"""Everyone, while authentication is off."""


def person(subject: str, scopes: Iterable[str]) -> Caller:
    """Who shows a token; scopes that mean nothing here are left out."""
    return Caller(name=f"user:{subject}", subject=subject, scopes=SCOPES & frozenset(scopes))


def machine(name: str, scopes: Iterable[str]) -> Caller:
    """What shows an API key."""
    return Caller(name=f"key:{name}", subject=name, scopes=SCOPES & frozenset(scopes))


def is_subject(text: str) -> bool:
    """Whether a caller may be called so: 1 to 128 printable ASCII characters, no space."""
    return _SUBJECT.fullmatch(text) is not None
