"""Parcels: booked at the first carrier that can be reached, at one only; cancelled at each.

Before a carrier is asked its name is written down with the work. From then on the parcel may be
there, so no other carrier is asked until it is known that the first was never reached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from schemas.returns import IssueReturnLabel, ReturnApproved
from schemas.shipping import (
    RecordDelivered,
    RecordDispatched,
    RecordShipmentArranged,
    RecordShipmentRefused,
    ShipmentCancelled,
    ShipmentRequested,
)
from tidelog.effects.definition import (
    Attempt,
    Effect,
    NotNow,
    NotSent,
    RetryPolicy,
    WorkRefused,
    effect,
)
from tidelog.effects.dependency import Answer, Dependency
from tidelog.effects.movements import Entry, Movements
from tidelog.errors import Unavailable
from tidelog.message import Command

OK = 200


class Parcels:
    """The effects of parcels, at carriers in the order in which they are preferred."""

    def __init__(self, carriers: Mapping[str, Dependency]) -> None:
        assert carriers, "a shop that ships has a carrier"
        self._carriers = carriers

    def effects(self, retries: RetryPolicy) -> tuple[Effect, ...]:
        """Every one of them."""
        return (
            effect(ShipmentRequested, self.book_parcel, retries=retries),
            effect(ShipmentCancelled, self.cancel_parcel, retries=retries),
            effect(ReturnApproved, self.make_label, retries=retries),
        )

    def movements(self, name: str, pause_s: float) -> Movements:
        """What one carrier tells by itself."""

        async def read(after: int) -> list[Entry]:
            answer = await self._carriers[name].call(
                "GET", f"/carriers/{name}/movements?after={after}", correlation_id=""
            )
            return [_entry(each) for each in _content(answer)["movements"]]

        return Movements(name=f"movements-{name}", read=read, pause_s=pause_s)

    async def book_parcel(
        self, event: ShipmentRequested, attempt: Attempt
    ) -> RecordShipmentArranged | RecordShipmentRefused:
        """Book at one carrier."""

        async def book(name: str, carrier: Dependency) -> Answer:
            return await carrier.call(
                "POST",
                f"/carriers/{name}/parcels",
                correlation_id=attempt.correlation_id,
                key=parcel_key(event.order_id),
                body={"order_id": event.order_id, "ship_to": msgspec.to_builtins(event.ship_to)},
            )

        found = _content(await self._at_one(attempt, book))
        if found["status"] == "refused":
            return RecordShipmentRefused(order_id=event.order_id, reason=found["reason"])
        if found["status"] == "cancelled":
            return RecordShipmentRefused(order_id=event.order_id, reason="it was cancelled")
        return RecordShipmentArranged(
            order_id=event.order_id, carrier=found["carrier"], tracking=found["tracking"]
        )

    async def cancel_parcel(self, event: ShipmentCancelled, attempt: Attempt) -> None:
        """Cancel wherever it may be; a booking that is still under way comes too late then."""
        trouble: Unavailable | None = None
        for name, carrier in self._carriers.items():
            try:
                answer = await carrier.call(
                    "POST",
                    f"/carriers/{name}/parcels/{parcel_key(event.order_id)}/cancel",
                    correlation_id=attempt.correlation_id,
                    body={"order_id": event.order_id},
                )
            except Unavailable as error:
                trouble = error  # the others are told all the same
                continue
            if _content(answer)["status"] == "delivered":
                raise WorkRefused(f"{name} delivered the parcel before it was cancelled.")
        if trouble is not None:
            raise trouble

    async def make_label(self, event: ReturnApproved, attempt: Attempt) -> IssueReturnLabel:
        """A label of one carrier."""

        async def label(name: str, carrier: Dependency) -> Answer:
            return await carrier.call(
                "POST",
                f"/carriers/{name}/labels",
                correlation_id=attempt.correlation_id,
                key=f"label:{event.return_id}",
                body={"return_id": event.return_id, "order_id": event.order_id},
            )

        found = _content(await self._at_one(attempt, label))
        return IssueReturnLabel(
            return_id=event.return_id, carrier=found["carrier"], tracking=found["tracking"]
        )

    async def _at_one(
        self, attempt: Attempt, ask: Callable[[str, Dependency], Awaitable[Answer]]
    ) -> Answer:
        """Ask the carrier that may have it; where none may, the first that can be reached."""
        if attempt.memo:
            return await ask(attempt.memo, self._carriers[attempt.memo])
        last: NotNow | NotSent | None = None
        for name, carrier in self._carriers.items():
            await attempt.remember(name)
            try:
                return await ask(name, carrier)
            except (NotNow, NotSent) as error:
                last = error  # nothing was sent there, so another one may have it
        await attempt.remember("")
        assert last is not None, "each carrier was asked"
        raise last


def parcel_key(order_id: str) -> str:
    """The carriers' key of an order's parcel."""
    return f"parcel:{order_id}"


def _content(answer: Answer) -> dict[str, Any]:
    if answer.status != OK:
        raise WorkRefused(f"The carrier answered {answer.status}: {answer.body.get('type', '')}")
    return answer.body


def _entry(found: dict[str, Any]) -> Entry:
    order_id = found["order_id"]
    commands: dict[str, Command] = {
        "dispatched": RecordDispatched(order_id=order_id),
        "delivered": RecordDelivered(order_id=order_id),
    }
    return Entry(found["number"], commands.get(found["status"]), "")
