"""Parcels at real carriers that fail: booked at one only, cancelled at each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sagas.effects.carrier import Parcels
from schemas.returns import ReturnApproved
from schemas.shipping import (
    RecordDelivered,
    RecordDispatched,
    RecordShipmentArranged,
    RecordShipmentRefused,
    ShipmentCancelled,
    ShipmentRequested,
)
from schemas.values import Address, GoodsLine
from tests.service_process import HTTP, ServiceProcess, free_port, running
from tidelog.effects.definition import Attempt, NoAnswer, NotNow, NotSent, WorkRefused
from tidelog.effects.dependency import Dependency
from tidelog.effects.guard import breaker_options
from tidelog.settings import Settings

HOME = Address(name="A", street="B", city="C", postal_code="1", country="DE")
NOWHERE = Address(name="A", street="B", city="C", postal_code="00000", country="DE")


class Memo:
    """The row of one piece of work: what it remembers over its attempts."""

    def __init__(self) -> None:
        self.text = ""

    async def remember(self, text: str) -> None:
        self.text = text

    async def known(self, name: str, key: str) -> str | None:
        raise AssertionError("parcels need to know of no other event")

    @property
    def attempt(self) -> Attempt:
        return Attempt(
            number=1,
            giving_up=False,
            message_id="m",
            correlation_id="x",
            memo=self.text,
            remember=self.remember,
            known=self.known,
        )


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("carrier")
    carrier = ServiceProcess("sagas.world.carrier", {"state_dir": folder}, folder / "carrier.log")
    with running(carrier):
        yield carrier


@pytest.fixture
async def carriers(process: ServiceProcess) -> AsyncIterator[dict[str, Dependency]]:
    nobody = f"http://127.0.0.1:{free_port()}"
    made = {
        "north": Dependency("north", process.url, timeout_s=1.0),
        "south": Dependency("south", process.url, timeout_s=1.0),
        "nobody": Dependency("nobody", nobody, timeout_s=1.0),
    }
    yield made
    for each in made.values():
        await each.close()


@pytest.fixture
def parcels(carriers: dict[str, Dependency]) -> Parcels:
    return Parcels({"north": carriers["north"], "south": carriers["south"]})


def requested(order_id: str, ship_to: Address = HOME) -> ShipmentRequested:
    return ShipmentRequested(
        order_id=order_id, ship_to=ship_to, lines=(GoodsLine(sku="tea", quantity=1),)
    )


def tell(process: ServiceProcess, path: str, **content: Any) -> None:
    HTTP.put(process.url + path, json=content).raise_for_status()


def booked(process: ServiceProcess, order_id: str) -> list[str]:
    entries = HTTP.get(process.url + "/ledger").json()
    return [
        f"{entry['kind']} {entry['carrier']}" for entry in entries if entry["order_id"] == order_id
    ]


async def test_a_parcel_is_booked_once(parcels: Parcels, process: ServiceProcess) -> None:
    found = [await parcels.book_parcel(requested("once"), Memo().attempt) for _ in range(2)]

    assert isinstance(found[0], RecordShipmentArranged)
    assert found[0].carrier == "north"
    assert found[1] == found[0]
    assert booked(process, "once") == ["book north"]


async def test_a_carrier_that_is_not_there_is_passed_over(
    carriers: dict[str, Dependency],
) -> None:
    parcels = Parcels({"nobody": carriers["nobody"], "south": carriers["south"]})
    memo = Memo()

    found = await parcels.book_parcel(requested("fallback"), memo.attempt)

    assert isinstance(found, RecordShipmentArranged)
    assert found.carrier == "south"
    assert memo.text == "south"


async def test_a_carrier_that_is_left_alone_is_passed_over_and_asked_again_later(
    carriers: dict[str, Dependency], process: ServiceProcess
) -> None:
    settings = Settings(breaker_calls_min=2, breaker_failure_share=1.0, breaker_open_ms=300)
    guarded = Dependency("guarded", process.url, timeout_s=1.0, breaker=breaker_options(settings))
    parcels = Parcels({"north": guarded, "south": carriers["south"]})
    tell(process, "/behaviour", mode="error", only="north")
    doubtful = Memo()
    try:
        for _ in range(2):  # each may have been booked there, so no other carrier is asked
            with pytest.raises(NoAnswer):
                await parcels.book_parcel(requested("doubtful"), doubtful.attempt)
        with pytest.raises(NotNow):
            await parcels.book_parcel(requested("doubtful"), doubtful.attempt)

        found = await parcels.book_parcel(requested("elsewhere"), Memo().attempt)

        assert isinstance(found, RecordShipmentArranged)
        assert found.carrier == "south"
        tell(process, "/behaviour", mode="approve")
        async with asyncio.timeout(30):
            while (again := await _once(parcels, doubtful)) is None:
                await asyncio.sleep(0.05)
        assert again.carrier == "north"
        assert booked(process, "doubtful") == ["book north"]
    finally:
        tell(process, "/behaviour", mode="approve")
        await guarded.close()


async def _once(parcels: Parcels, memo: Memo) -> RecordShipmentArranged | None:
    """The parcel, where the breaker lets the call pass."""
    try:
        found = await parcels.book_parcel(requested("doubtful"), memo.attempt)
    except NotNow:
        return None
    assert isinstance(found, RecordShipmentArranged)
    return found


async def test_where_no_carrier_is_there_the_next_try_begins_anew(
    carriers: dict[str, Dependency],
) -> None:
    memo = Memo()

    with pytest.raises(NotSent):
        await Parcels({"nobody": carriers["nobody"]}).book_parcel(requested("n"), memo.attempt)

    assert memo.text == ""


async def test_a_carrier_that_may_have_it_is_asked_again_and_no_other(
    parcels: Parcels, process: ServiceProcess
) -> None:
    memo = Memo()
    tell(process, "/behaviour", mode="lose-answer", only="north")
    with pytest.raises(NoAnswer):
        await parcels.book_parcel(requested("doubt"), memo.attempt)
    tell(process, "/behaviour", mode="approve")

    found = await parcels.book_parcel(requested("doubt"), memo.attempt)

    assert isinstance(found, RecordShipmentArranged)
    assert booked(process, "doubt") == ["book north"]


async def test_a_parcel_to_nowhere_is_refused(parcels: Parcels) -> None:
    found = await parcels.book_parcel(requested("nowhere", NOWHERE), Memo().attempt)

    assert isinstance(found, RecordShipmentRefused)


async def test_a_cancel_holds_for_a_booking_that_comes_after_it(
    parcels: Parcels, process: ServiceProcess
) -> None:
    await parcels.cancel_parcel(ShipmentCancelled(order_id="early"), Memo().attempt)

    found = await parcels.book_parcel(requested("early"), Memo().attempt)

    assert isinstance(found, RecordShipmentRefused)
    assert booked(process, "early") == ["cancel north", "cancel south"]


async def test_a_cancel_after_the_delivery_waits_for_a_person(
    parcels: Parcels, process: ServiceProcess
) -> None:
    await parcels.book_parcel(requested("arrived"), Memo().attempt)
    tell(process, "/parcels/arrived", status="delivered")

    with pytest.raises(WorkRefused, match="delivered"):
        await parcels.cancel_parcel(ShipmentCancelled(order_id="arrived"), Memo().attempt)


async def test_movements_are_read_on_from_where_one_was(
    parcels: Parcels, process: ServiceProcess
) -> None:
    movements = parcels.movements("north", 1.0)
    before = await movements.read(0)
    start = before[-1].number if before else 0
    await parcels.book_parcel(requested("moves"), Memo().attempt)
    tell(process, "/parcels/moves", status="dispatched")
    tell(process, "/parcels/moves", status="delivered")

    found = await movements.read(start)

    assert [each.command for each in found] == [
        RecordDispatched(order_id="moves"),
        RecordDelivered(order_id="moves"),
    ]
    assert await movements.read(found[-1].number) == []


async def test_a_return_gets_the_same_label_however_often_it_is_asked_for(
    parcels: Parcels,
) -> None:
    approved = ReturnApproved(return_id="r", order_id="back")

    first = await parcels.make_label(approved, Memo().attempt)

    assert await parcels.make_label(approved, Memo().attempt) == first
