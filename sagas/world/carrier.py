"""Two carriers in small, north and south: `python -m sagas.world.carrier`.

    POST /carriers/{name}/parcels              take a parcel     Idempotency-Key: the parcel
    GET  /carriers/{name}/parcels/{key}        what became of it
    POST /carriers/{name}/parcels/{key}/cancel  do not take it, or bring it back
    POST /carriers/{name}/labels               a label for a parcel that is sent back
    GET  /carriers/{name}/movements?after=N    what has moved, in order
    PUT  /parcels/{order_id}                   move it: {"status": "dispatched" | "delivered"}
    PUT  /behaviour                            how they behave from now on
    GET  /ledger                               their books

Parcels stay where they are until they are told to move.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sagas.world.behaviour import Behaviour, before, decoded, hang, key_of
from sagas.world.books import Books
from sagas.world.process import answer, run_simulator
from schemas.values import Address
from tidelog.errors import Invalid, Unknown
from tidelog.ids import utc_now
from tidelog.message import Id
from tidelog.settings import Settings

NAMES = ("north", "south")
REFUSED_POSTAL_CODE = "00000"
MOVEMENTS_MAX = 100
KINDS = {"booked": "book", "cancelled": "cancel", "label": "label"}


class Booking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a parcel to be taken."""

    order_id: Id
    ship_to: Address


class Cancel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a parcel not to be taken."""

    order_id: Id


class Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a label for what is sent back."""

    return_id: Id
    order_id: Id


class Move(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Move a parcel on."""

    status: Literal["dispatched", "delivered"]


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """How a parcel stands."""

    key: str
    carrier: str
    order_id: str
    status: Literal["booked", "refused", "cancelled", "dispatched", "delivered", "label"]
    tracking: str = ""
    reason: str = ""
    at: str


class Carriers:
    """The books of both. One event loop uses them."""

    def __init__(self, books: Books) -> None:
        self.behaviour = Behaviour()
        self.ledger: list[dict[str, Any]] = []
        self._books = books
        self._parcels: dict[tuple[str, str], Parcel] = {}
        self._movements: dict[str, list[Parcel]] = {name: [] for name in NAMES}
        for entry in books.read():
            self._enter(msgspec.convert(entry, Parcel))

    def book(self, name: str, key: str, booking: Booking, *, refuse: bool) -> Parcel:
        """Take the parcel, or say no; once."""
        refused = refuse or booking.ship_to.postal_code == REFUSED_POSTAL_CODE
        return self._parcels.get((name, key)) or self._write(
            Parcel(
                key=key,
                carrier=name,
                order_id=booking.order_id,
                status="refused" if refused else "booked",
                tracking="" if refused else _tracking(name, key),
                reason="no parcels are taken there" if refused else "",
                at=utc_now(),
            )
        )

    def label(self, name: str, key: str, label: Label) -> Parcel:
        """A label; the same one for the same key."""
        return self._parcels.get((name, key)) or self._write(
            Parcel(
                key=key,
                carrier=name,
                order_id=label.order_id,
                status="label",
                tracking=_tracking(name, key),
                at=utc_now(),
            )
        )

    def cancel(self, name: str, key: str, cancel: Cancel) -> Parcel:
        """Not to be delivered any more, unless it was."""
        known = self._parcels.get((name, key))
        if known is None:
            return self._write(
                Parcel(
                    key=key,
                    carrier=name,
                    order_id=cancel.order_id,
                    status="cancelled",
                    at=utc_now(),
                )
            )
        if known.status in ("booked", "dispatched"):
            return self._write(msgspec.structs.replace(known, status="cancelled", at=utc_now()))
        return known

    def parcel(self, name: str, key: str) -> Parcel:
        """How it stands."""
        known = self._parcels.get((name, key))
        if known is None:
            raise Unknown("There is no such parcel.")
        return known

    def move(self, order_id: str, status: Literal["dispatched", "delivered"]) -> Parcel:
        """The order's parcel moves on."""
        for parcel in self._parcels.values():
            movable = parcel.status == "booked" or (parcel.status, status) == (
                "dispatched",
                "delivered",
            )
            if parcel.order_id == order_id and movable:
                return self._write(msgspec.structs.replace(parcel, status=status, at=utc_now()))
        raise Unknown("The order has no parcel that could move so.")

    def movements(self, name: str, after: int) -> list[dict[str, Any]]:
        """What has moved after this number."""
        found = self._movements[name][after : after + MOVEMENTS_MAX]
        return [
            {"number": number, "order_id": parcel.order_id, "status": parcel.status}
            for number, parcel in enumerate(found, after + 1)
        ]

    def _write(self, parcel: Parcel) -> Parcel:
        self._books.write(msgspec.to_builtins(parcel))
        self._enter(parcel)
        return parcel

    def _enter(self, parcel: Parcel) -> None:
        self._parcels[parcel.carrier, parcel.key] = parcel
        if parcel.status in ("dispatched", "delivered"):
            self._movements[parcel.carrier].append(parcel)
        if parcel.status in KINDS:
            self.ledger.append(
                {
                    "order_id": parcel.order_id,
                    "kind": KINDS[parcel.status],
                    "carrier": parcel.carrier,
                    "tracking": parcel.tracking,
                    "idempotency_key": parcel.key,
                    "at": parcel.at,
                }
            )


def _tracking(name: str, key: str) -> str:
    return f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _name_of(request: Request) -> str:
    name: str = request.path_params["name"]
    if name not in NAMES:
        raise Unknown("There is no such carrier.")
    return name


def parcel_routes(carriers: Carriers) -> list[Route]:
    """What a shop asks of a carrier."""

    async def post(request: Request, result: Callable[[bytes, str], Parcel]) -> Response:
        mode = carriers.behaviour.drawn(_name_of(request))
        content = await request.body()
        await before(request, mode, carriers.behaviour.delay_ms)
        done = result(content, mode)
        if mode == "twice":
            done = result(content, mode)  # as a network that repeats the call would do
        if mode == "lose-answer":
            await hang(request)
        return answer(done)

    async def book(request: Request) -> Response:
        name, key = _name_of(request), key_of(request)
        return await post(
            request,
            lambda content, mode: carriers.book(
                name, key, decoded(content, Booking), refuse=mode == "decline"
            ),
        )

    async def cancel(request: Request) -> Response:
        name, key = _name_of(request), request.path_params["key"]
        return await post(
            request, lambda content, _: carriers.cancel(name, key, decoded(content, Cancel))
        )

    async def label(request: Request) -> Response:
        name, key = _name_of(request), key_of(request)
        return await post(
            request, lambda content, _: carriers.label(name, key, decoded(content, Label))
        )

    async def read_parcel(request: Request) -> Response:
        name = _name_of(request)
        await before(request, carriers.behaviour.drawn(name), carriers.behaviour.delay_ms)
        return answer(carriers.parcel(name, request.path_params["key"]))

    return [
        Route("/carriers/{name}/parcels", book, methods=["POST"]),
        Route("/carriers/{name}/parcels/{key}", read_parcel),
        Route("/carriers/{name}/parcels/{key}/cancel", cancel, methods=["POST"]),
        Route("/carriers/{name}/labels", label, methods=["POST"]),
    ]


def other_routes(carriers: Carriers) -> list[Route]:
    """Movements, behaviour, and the books."""

    async def read_movements(request: Request) -> Response:
        name = _name_of(request)
        await before(request, carriers.behaviour.drawn(name), carriers.behaviour.delay_ms)
        after = request.query_params.get("after", "0")
        if not after.isascii() or not after.isdigit() or len(after) > 15:
            raise Invalid("`after` is a number.")
        return answer({"movements": carriers.movements(name, int(after))})

    async def move(request: Request) -> Response:
        status = decoded(await request.body(), Move).status
        return answer(carriers.move(request.path_params["order_id"], status))

    async def behave(request: Request) -> Response:
        carriers.behaviour = decoded(await request.body(), Behaviour)
        return answer(carriers.behaviour)

    async def read_behaviour(_: Request) -> Response:
        return answer(carriers.behaviour)

    async def read_ledger(_: Request) -> Response:
        return answer(carriers.ledger)

    return [
        Route("/carriers/{name}/movements", read_movements),
        Route("/parcels/{order_id}", move, methods=["PUT"]),
        Route("/behaviour", behave, methods=["PUT"]),
        Route("/behaviour", read_behaviour),
        Route("/ledger", read_ledger),
    ]


def routes(settings: Settings) -> list[Route]:
    """The carriers with the books of this process."""
    carriers = Carriers(Books(settings.state_dir / "parcels.jsonl"))
    return [*parcel_routes(carriers), *other_routes(carriers)]


if __name__ == "__main__":
    sys.exit(run_simulator("carrier", routes))
