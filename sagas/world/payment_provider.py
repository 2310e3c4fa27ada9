"""A payment provider in small: `python -m sagas.world.payment_provider`.

    POST /payments                  take the money         Idempotency-Key: the payment
    GET  /payments/{key}            what became of it
    POST /payments/{key}/void       take nothing, ever; what was taken before stays taken
    POST /refunds                   pay back               Idempotency-Key: the refund
    PUT  /behaviour                 how it behaves from now on
    GET  /ledger                    its books

A call under a key that it knows gives the same answer again and moves no money. A void of what it
never heard of holds for what comes later.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sagas.world.behaviour import Behaviour, before, decoded, hang, key_of
from sagas.world.books import Books
from sagas.world.process import answer, run_simulator
from schemas.values import Amount, CurrencyCode
from tidelog.errors import IdempotencyKeyReused, Rejected, Unknown
from tidelog.ids import utc_now
from tidelog.message import Id
from tidelog.settings import Settings

DECLINED_PREFIX = "declined-"


class Charge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for money."""

    order_id: Id
    customer_id: Id
    amount: Amount
    currency: CurrencyCode


class Void(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for nothing any more."""

    order_id: Id


class Refund(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pay back a part of a payment."""

    payment: str
    order_id: Id
    amount: Amount
    currency: CurrencyCode


class NothingToRefund(Rejected):
    """No more can be paid back than was taken."""


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a payment."""

    order_id: str
    status: Literal["captured", "declined", "voided"]
    amount: int = 0
    currency: str = ""
    captured_on: str = ""
    reason: str = ""


class Provider:
    """The books, and the calls that are entered into them. One event loop uses it."""

    def __init__(self, books: Books) -> None:
        self.behaviour = Behaviour()
        self.ledger: list[dict[str, Any]] = []
        self._books = books
        self._payments: dict[str, Payment] = {}
        self._refunds: dict[str, Refund] = {}
        for entry in books.read():
            self._enter(entry)

    def charge(self, key: str, charge: Charge, *, decline: bool) -> Payment:
        """Take the money, or say no; once."""
        known = self._payments.get(key)
        if known is not None:
            if known.status == "captured" and known.amount != charge.amount:
                raise IdempotencyKeyReused
            return known
        if decline or charge.customer_id.startswith(DECLINED_PREFIX):
            payment = Payment(
                order_id=charge.order_id, status="declined", reason="the bank said no"
            )
        else:
            payment = Payment(
                order_id=charge.order_id,
                status="captured",
                amount=charge.amount,
                currency=charge.currency,
                captured_on=utc_now()[:10],
            )
        return self._settle(key, payment)

    def payment(self, key: str) -> Payment:
        """What became of it."""
        known = self._payments.get(key)
        if known is None:
            raise Unknown("There is no such payment.")
        return known

    def void(self, key: str, void: Void) -> Payment:
        """Take nothing for it, unless that was done."""
        known = self._payments.get(key)
        return known or self._settle(key, Payment(order_id=void.order_id, status="voided"))

    def refund(self, key: str, refund: Refund) -> Refund:
        """Pay back, once."""
        known = self._refunds.get(key)
        if known is not None:
            if known != refund:
                raise IdempotencyKeyReused
            return known
        payment = self._payments.get(refund.payment)
        captured = payment.amount if payment and payment.status == "captured" else 0
        paid = sum(each.amount for each in self._refunds.values() if each.payment == refund.payment)
        if payment is None or payment.status != "captured" or paid + refund.amount > captured:
            raise NothingToRefund
        self._write("refund", key, msgspec.to_builtins(refund))
        return refund

    def _settle(self, key: str, payment: Payment) -> Payment:
        self._write("payment", key, msgspec.to_builtins(payment))
        return payment

    def _write(self, kind: str, key: str, content: dict[str, Any]) -> None:
        entry = {"entry": kind, "key": key, "at": utc_now(), "content": content}
        self._books.write(entry)
        self._enter(entry)

    def _enter(self, entry: dict[str, Any]) -> None:
        key, content = entry["key"], entry["content"]
        kinds = {"captured": "capture", "voided": "void"}
        if entry["entry"] == "refund":
            self._refunds[key] = msgspec.convert(content, Refund)
            kind = "refund"
        else:
            self._payments[key] = msgspec.convert(content, Payment)
            kind = kinds.get(content["status"], "")
        if kind:
            self.ledger.append(
                {
                    "order_id": content["order_id"],
                    "kind": kind,
                    "amount": content["amount"],
                    "currency": content["currency"],
                    "idempotency_key": key,
                    "at": entry["at"],
                }
            )


def routes_of(provider: Provider) -> list[Route]:
    """The provider over HTTP."""

    async def post(request: Request, result: Any) -> Response:
        mode = provider.behaviour.drawn()
        content = await request.body()
        await before(request, mode, provider.behaviour.delay_ms)
        done = result(content, mode)
        if mode == "twice":
            done = result(content, mode)  # as a network that repeats the call would do
        if mode == "lose-answer":
            await hang(request)
        return answer(done)

    async def charge(request: Request) -> Response:
        key = key_of(request)
        return await post(
            request,
            lambda content, mode: provider.charge(
                key, decoded(content, Charge), decline=mode == "decline"
            ),
        )

    async def void(request: Request) -> Response:
        key = request.path_params["key"]
        return await post(request, lambda content, _: provider.void(key, decoded(content, Void)))

    async def refund(request: Request) -> Response:
        key = key_of(request)
        return await post(
            request, lambda content, _: provider.refund(key, decoded(content, Refund))
        )

    async def read_payment(request: Request) -> Response:
        mode = provider.behaviour.drawn()
        await before(request, mode, provider.behaviour.delay_ms)
        return answer(provider.payment(request.path_params["key"]))

    async def behave(request: Request) -> Response:
        provider.behaviour = decoded(await request.body(), Behaviour)
        return answer(provider.behaviour)

    async def read_behaviour(_: Request) -> Response:
        return answer(provider.behaviour)

    async def read_ledger(_: Request) -> Response:
        return answer(provider.ledger)

    return [
        Route("/payments", charge, methods=["POST"]),
        Route("/payments/{key}", read_payment),
        Route("/payments/{key}/void", void, methods=["POST"]),
        Route("/refunds", refund, methods=["POST"]),
        Route("/behaviour", behave, methods=["PUT"]),
        Route("/behaviour", read_behaviour),
        Route("/ledger", read_ledger),
    ]


def routes(settings: Settings) -> list[Route]:
    """The provider with the books of this process."""
    return routes_of(Provider(Books(settings.state_dir / "payments.jsonl")))


if __name__ == "__main__":
    sys.exit(run_simulator("payment_provider", routes))
