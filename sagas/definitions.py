"""Every saga of the shop, as one explicit list."""

from __future__ import annotations

from typing import Any

from sagas.fulfilment import fulfilment
from sagas.returns import returns
from tidelog import Saga

SAGAS: tuple[Saga[Any], ...] = (fulfilment, returns)
