"""The stock's rules: what is accepted, what is refused, what is quiet."""

from __future__ import annotations

import pytest

from command_service.inventory import (
    RESERVATIONS_MAX,
    RETURNS_MAX,
    SETTLED_MAX,
    ReservationDiffers,
    ReturnedStockGone,
    StockAlreadySold,
    StockItem,
    StockNotReserved,
    StockNotSold,
    decide,
    inventory,
)
from schemas.inventory import (
    ReceiveStock,
    ReleaseStock,
    ReserveStock,
    ReturnStock,
    SellStock,
    StockReceived,
    StockReleased,
    StockReservationRefused,
    StockReserved,
    StockReturned,
    StockSold,
    WithdrawReturn,
)
from tidelog import replace
from tidelog.testing import given

SKU = "tea"

reserve = ReserveStock(sku=SKU, order_id="o-1", quantity=3)
release = ReleaseStock(sku=SKU, order_id="o-1")
sell = SellStock(sku=SKU, order_id="o-1")
take_back = ReturnStock(sku=SKU, order_id="o-1", quantity=3)

received = StockReceived(sku=SKU, quantity=5)
reserved = StockReserved(sku=SKU, order_id="o-1", quantity=3)
refused = StockReservationRefused(sku=SKU, order_id="o-1", quantity=3, available=0)
released = StockReleased(sku=SKU, order_id="o-1", quantity=3)
sold = StockSold(sku=SKU, order_id="o-1", quantity=3)
returned = StockReturned(sku=SKU, order_id="o-1", quantity=3, return_id=None)


def test_received_stock_is_on_hand() -> None:
    given(inventory).when(ReceiveStock(sku=SKU, quantity=5)).then(received).then_state(
        on_hand=5, reserved=0
    )


def test_receiving_twice_adds_twice() -> None:
    given(inventory, received).when(ReceiveStock(sku=SKU, quantity=5)).then(received).then_state(
        on_hand=10
    )


def test_available_stock_is_reserved() -> None:
    given(inventory, received).when(reserve).then(reserved).then_state(on_hand=5, reserved=3)


def test_reserving_twice_changes_nothing() -> None:
    given(inventory, received, reserved).when(reserve).then()


def test_reserving_again_with_another_quantity_is_refused() -> None:
    given(inventory, received, reserved).when(replace(reserve, quantity=2)).rejected(
        ReservationDiffers
    )


def test_a_sku_that_never_received_stock_refuses_by_an_event() -> None:
    given(inventory).when(reserve).then(refused)


def test_only_what_others_have_not_reserved_is_available() -> None:
    given(inventory, received, reserved).when(
        ReserveStock(sku=SKU, order_id="o-2", quantity=3)
    ).then(StockReservationRefused(sku=SKU, order_id="o-2", quantity=3, available=2)).then_state(
        reserved=3
    )


def test_a_refusal_is_final_for_its_order_also_when_stock_arrives() -> None:
    given(inventory, refused, received).when(reserve).then()


def test_a_released_reservation_is_available_again() -> None:
    given(inventory, received, reserved).when(release).then(released).then_state(
        on_hand=5, reserved=0, reservations={}
    )


def test_releasing_twice_changes_nothing() -> None:
    given(inventory, received, reserved, released).when(release).then()


def test_a_refused_reservation_needs_no_release() -> None:
    given(inventory, refused).when(release).then()


def test_a_release_that_outran_its_reservation_voids_it() -> None:
    nothing = replace(released, quantity=0)
    given(inventory, received).when(release).then(nothing)
    given(inventory, received, nothing).when(reserve).then()


def test_a_late_duplicate_of_a_reservation_does_not_reserve_again() -> None:
    given(inventory, received, reserved, released).when(reserve).then()
    given(inventory, received, reserved, sold).when(reserve).then()


def test_a_sale_leaves_the_shelf() -> None:
    given(inventory, received, reserved).when(sell).then(sold).then_state(
        on_hand=2, reserved=0, reservations={}
    )


def test_selling_twice_changes_nothing() -> None:
    given(inventory, received, reserved, sold).when(sell).then()


def test_only_reserved_stock_is_sold() -> None:
    given(inventory, received).when(sell).rejected(StockNotReserved)
    given(inventory, received, reserved, released).when(sell).rejected(StockNotReserved)


def test_sold_stock_cannot_be_released() -> None:
    given(inventory, received, reserved, sold).when(release).rejected(StockAlreadySold)


def test_the_goods_of_a_cancelled_sale_come_back() -> None:
    given(inventory, received, reserved, sold).when(take_back).then(returned).then_state(on_hand=5)


def test_returning_twice_changes_nothing() -> None:
    given(inventory, received, reserved, sold, returned).when(take_back).then()


def test_each_return_of_an_order_comes_back_once() -> None:
    first = ReturnStock(sku=SKU, order_id="o-1", quantity=1, return_id="r-1")
    came = StockReturned(sku=SKU, order_id="o-1", quantity=1, return_id="r-1")
    history = (received, reserved, sold, came)
    given(inventory, *history).when(first).then()
    given(inventory, *history).when(replace(first, return_id="r-2")).then(
        replace(came, return_id="r-2")
    )


def test_no_more_comes_back_than_was_sold() -> None:
    given(inventory, received, reserved, sold).when(replace(take_back, quantity=4)).rejected(
        StockNotSold
    )
    given(inventory, received, reserved, sold, returned).when(
        replace(take_back, quantity=1, return_id="r-1")
    ).rejected(StockNotSold)


@pytest.mark.parametrize(
    "history", [(received, reserved), (received, reserved, released), (refused,)]
)
def test_only_sold_stock_comes_back(
    history: tuple[StockReceived | StockReserved | StockReleased | StockReservationRefused, ...],
) -> None:
    given(inventory, *history).when(take_back).rejected(StockNotSold)


def test_the_memory_of_ended_reservations_is_bounded_and_forgets_the_oldest() -> None:
    ended = [StockReleased(sku=SKU, order_id=f"o-{n}", quantity=0) for n in range(SETTLED_MAX + 1)]
    state = given(inventory, *ended).state
    assert len(state.settled) == SETTLED_MAX
    assert "o-0" not in state.settled
    assert "o-1" in state.settled


def test_a_sale_that_is_forgotten_can_still_come_back() -> None:
    others = [StockReleased(sku=SKU, order_id=f"x-{n}", quantity=0) for n in range(SETTLED_MAX)]
    given(inventory, received, reserved, sold, *others).when(take_back).then(returned).then_state(
        on_hand=5
    )


def test_the_memory_of_returns_is_bounded() -> None:
    back = [
        StockReturned(sku=SKU, order_id="o-9", quantity=1, return_id=f"r-{n}")
        for n in range(RETURNS_MAX + 1)
    ]
    assert len(given(inventory, *back).state.returns) == RETURNS_MAX


def test_the_open_reservations_are_bounded_and_one_more_is_refused() -> None:
    full = StockItem(
        on_hand=2 * RESERVATIONS_MAX,
        reserved=RESERVATIONS_MAX,
        reservations={f"x-{n}": 1 for n in range(RESERVATIONS_MAX)},
    )
    assert decide(reserve, full) == [replace(refused, available=RESERVATIONS_MAX)]


brought_back = StockReturned(sku=SKU, order_id="o-1", quantity=2, return_id="r-1")
withdraw = WithdrawReturn(sku=SKU, order_id="o-1", quantity=2, return_id="r-1")


def test_a_return_that_failed_is_sold_to_the_order_again_and_only_once() -> None:
    history = (received, reserved, sold, brought_back)
    outcome = given(inventory, *history).when(withdraw)

    outcome.then(
        StockReserved(sku=SKU, order_id="o-1", quantity=2),
        StockSold(sku=SKU, order_id="o-1", quantity=2, return_id="r-1"),
    ).then_state(on_hand=2, reserved=0)
    given(inventory, *history, *outcome.events).when(withdraw).then()


def test_a_return_whose_pieces_are_gone_waits_for_a_person() -> None:
    taken = StockReserved(sku=SKU, order_id="o-2", quantity=4)

    given(inventory, received, reserved, sold, brought_back, taken).when(withdraw).rejected(
        ReturnedStockGone
    )


def test_a_return_that_never_came_back_is_not_withdrawn() -> None:
    given(inventory, received, reserved, sold).when(withdraw).then()
