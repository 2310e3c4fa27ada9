"""Whose an order is. The read model knows, and as it never changes, it is remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import httpx2
import msgspec

from tidelog.errors import Unknown
from tidelog.http.asgi import HeaderList

OWNERS_MAX: Final = 100_000
"""How many orders, and how many returns, are remembered."""

Ask = Callable[[bytes, HeaderList], Awaitable[httpx2.Response]]
"""Asks the query service for a path; the whole answer."""

NOTHING: Final = "There is nothing under this id."
"""Said of what is not there and of what is another's: nobody can tell one from the other."""

_PASSED_ON = (b"consistency-token", b"x-correlation-id", b"traceparent")


class NotTold(Exception):
    """The query service could not say yet; its answer is the caller's."""

    def __init__(self, answer: httpx2.Response) -> None:
        super().__init__(answer.status_code)
        self.answer = answer


class _Order(msgspec.Struct):
    customer_id: str


class _Return(msgspec.Struct):
    order_id: str


class Owners:
    """Asks once for each order and each return; both memories are bounded."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._customers: OrderedDict[str, str] = OrderedDict()
        self._orders: OrderedDict[str, str] = OrderedDict()

    async def check_order(
        self, order_id: str, customer: str, headers: Mapping[bytes, bytes], wait: bytes = b""
    ) -> None:
        """Unknown unless the order is the customer's. A consistency token is waited for."""
        found = self._customers.get(order_id)
        if found is None:
            raw = await self._read(f"/orders/{order_id}", headers, wait)
            found = msgspec.json.decode(raw, type=_Order).customer_id
            self.remember(order_id, found)
        if found != customer:
            raise Unknown(NOTHING)

    async def check_return(
        self, return_id: str, customer: str, headers: Mapping[bytes, bytes], wait: bytes = b""
    ) -> None:
        """Unknown unless the return is of an order of the customer's."""
        order_id = self._orders.get(return_id)
        if order_id is None:
            raw = await self._read(f"/returns/{return_id}", headers, wait)
            order_id = msgspec.json.decode(raw, type=_Return).order_id
            _keep(self._orders, return_id, order_id)
        await self.check_order(order_id, customer, headers, wait)

    def remember(self, order_id: str, customer: str) -> None:
        """The order was placed by this customer, or was read."""
        _keep(self._customers, order_id, customer)

    async def _read(self, path: str, headers: Mapping[bytes, bytes], wait: bytes) -> bytes:
        passed = [(name, headers[name]) for name in _PASSED_ON if name in headers]
        target = path.encode("ascii")
        answer = await self._ask(target + b"?" + wait if wait else target, passed)
        if answer.status_code == 404:
            raise Unknown(NOTHING)
        if answer.status_code != 200:
            raise NotTold(answer)
        return answer.content


def _keep(memory: OrderedDict[str, str], key: str, value: str) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > OWNERS_MAX:
        memory.popitem(last=False)
