"""`tidelog demo`: a walk through the shop, over HTTP: what goes well, what fails, what is undone.

On the stack that runs, or on one of its own that is thrown away. Nothing is faked: the orders are
real, and stay in the stack's data.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tidelog.cli.demo_shop import DemoShop, show_stock, show_timeline, tell
from tidelog.cli.output import FAILURE, Dev, say
from tidelog.cli.system import dev_file, read_dev
from tidelog.cli.token import authorization
from tidelog.errors import ConfigurationError, Unavailable

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 90.0
POLL_S = 0.2
RECEIVED = 40
OUTAGE_ORDERS = 8
OUTAGE = {"mode": "error"}
LOST_ANSWER = {"mode": "lose-answer"}


def demo(
    own: Annotated[
        bool, typer.Option("--own", help="On a stack of its own, thrown away afterwards.")
    ] = False,
    dev: Dev = None,
) -> None:
    """Walk through the shop: orders that succeed, fail and are undone, and an outage.

    Exit code 1 where the books do not balance in the end.
    """
    running = None if own else _running(dev)
    if running is not None:
        _walk(running)
        return
    with own_stack() as file:
        _walk(file)


def _walk(file: Path) -> None:
    content = read_dev(file)
    started = time.monotonic()
    with closing(shop_of(content, authorization(file, "demo", "service"))) as shop:
        sold = [scene(shop) for scene in SCENES]
        wrong = settle_books(shop, sum(sold))
    tell(f"\n{time.monotonic() - started:.0f} s.")
    if wrong:
        tell("THE BOOKS DO NOT BALANCE:")
        for each in wrong:
            tell(f"  {each}")
        raise typer.Exit(FAILURE)
    tell("The books balance: ours, the shelf's and the provider's.")


def shop_of(content: dict[str, Any], authorization: Mapping[str, str] | None = None) -> DemoShop:
    """The shop that dev.json describes; ConfigurationError where it lacks a part."""
    parts = ("gateway", "payment_provider")
    missing = [name for name in parts if content.get(name) is None]
    if missing:
        raise ConfigurationError(f"the stack runs without {missing[0]}: the demo needs it")
    processes = content["processes"]
    effects = [each["url"] for each in processes if each["name"] == "effects" and each["url"]]
    urls = {name: str(content[name]["url"]) for name in parts}
    return DemoShop(urls, effects, f"{time.time_ns() // 1_000_000:x}", authorization)


# --- the scenes, each with the pieces that it sells for good ----------------------------------


def goes_well(shop: DemoShop) -> int:
    """Stock comes in, an order is placed, paid, shipped, confirmed."""
    tell("\n1. An order that goes well")
    shop.receive(RECEIVED)
    order_id = shop.place("good", quantity=2)
    show_timeline(shop.wait(order_id, "completed"))
    show_stock(shop.settled_stock())
    return 2


def is_declined(shop: DemoShop) -> int:
    """The provider declines the payment."""
    tell("\n2. The payment is declined: the stock is released, the order cancelled")
    order_id = shop.place("declined", customer_id="declined-bob")
    show_timeline(shop.wait(order_id, "compensated"))
    return 0


def is_not_shipped(shop: DemoShop) -> int:
    """No carrier goes there."""
    tell("\n3. The carrier refuses the parcel: the money goes back, the stock is released")
    order_id = shop.place("unshippable", postal_code="00000")
    show_timeline(shop.wait(order_id, "compensated"))
    return 0


def is_out_of_stock(shop: DemoShop) -> int:
    """The shelf has never had it."""
    tell("\n4. What was ordered is not on the shelf: nothing is asked of anybody else")
    order_id = shop.place("short", sku=f"no-{shop.sku}")
    show_timeline(shop.wait(order_id, "compensated"))
    return 0


def is_cancelled(shop: DemoShop) -> int:
    """The customer changes their mind when all is done."""
    tell("\n5. The customer cancels a confirmed order: parcel, money and stock come back")
    order_id = shop.place("cancelled", quantity=3)
    shop.wait(order_id, "completed")
    show_stock(shop.settled_stock())
    shop.cancel(order_id)
    show_timeline(shop.wait(order_id, "compensated"))
    show_stock(shop.settled_stock())
    return 0


def loses_an_answer(shop: DemoShop) -> int:
    """The provider takes the money, and nobody hears of it."""
    tell("\n6. The provider charges and its answer is lost: it is asked, and not charged again")
    before = shop.behaviour()
    try:
        shop.behave(LOST_ANSWER)
        order_id = shop.place("lost-answer")
        shop.until(lambda: order_id in shop.ledger_entries(), "the provider to charge")
    finally:
        shop.behave(before)
    show_timeline(shop.wait(order_id, "completed"))
    tell(f"  in the provider's books: {', '.join(shop.ledger_entries()[order_id])}")
    return 1


def outlasts_an_outage(shop: DemoShop) -> int:
    """The provider is down for a while."""
    tell(f"\n7. The payment provider fails, and {OUTAGE_ORDERS} orders come in")
    before = shop.behaviour()
    orders = []
    try:
        shop.behave(OUTAGE)
        orders = [shop.place(f"outage-{n}", quiet=True) for n in range(OUTAGE_ORDERS)]
        tell(f"  POST /orders/…/place-order, {OUTAGE_ORDERS} times")
        _breaker_becomes(shop, "open")
        show_timeline(shop.saga(orders[0]))
    finally:
        shop.behave(before)
    _breaker_becomes(shop, "closed")
    for order_id in orders:
        shop.wait(order_id, "completed")
    show_timeline(shop.saga(orders[0]))
    tell(f"  all {OUTAGE_ORDERS} orders are paid, each once")
    return OUTAGE_ORDERS


SCENES: Sequence[Callable[[DemoShop], int]] = (
    goes_well,
    is_declined,
    is_not_shipped,
    is_out_of_stock,
    is_cancelled,
    loses_an_answer,
    outlasts_an_outage,
)


def _breaker_becomes(shop: DemoShop, state: str) -> None:
    started = time.monotonic()
    shop.until(lambda: shop.breaker() == state, f"the breaker to be {state}")
    tell(f"  the provider's breaker is {state} after {time.monotonic() - started:.1f} s")


# --- the books --------------------------------------------------------------------------------


def settle_books(shop: DemoShop, sold: int) -> list[str]:
    """Show the books once the read models have caught up; what does not balance."""
    tell("\n8. The books")
    try:
        shop.until(lambda: not wrong_books(shop, sold), "the books to balance")
    except Unavailable as error:  # it is told what is wrong with them
        say(str(error))
    theirs = shop.ledger()
    for order_id in shop.orders:
        ours = shop.payment(order_id)
        tell(
            f"  {order_id:<24}{shop.order_status(order_id):<11}ours: captured {ours[0]}, "
            f"refunded {ours[1]}; the provider's: {theirs[order_id][0]}, {theirs[order_id][1]}"
        )
    show_stock(shop.stock())
    tell(f"  received {RECEIVED}, sold {sold}")
    return wrong_books(shop, sold)


def wrong_books(shop: DemoShop, sold: int) -> list[str]:
    """Everything that does not balance, in words."""
    wrong = []
    theirs = shop.ledger()
    for order_id, total in shop.orders.items():
        ours, status = shop.payment(order_id), shop.order_status(order_id)
        owed = total if status == "confirmed" else 0
        if status not in ("confirmed", "cancelled"):
            wrong.append(f"{order_id} is {status}")
        if ours != theirs[order_id]:
            wrong.append(f"{order_id}: our books say {ours}, the provider's {theirs[order_id]}")
        if ours[0] - ours[1] != owed:
            wrong.append(f"{order_id} is {status}, and {ours[0] - ours[1]} of {owed} were paid")
    stock = shop.stock()
    if (stock["on_hand"], stock["reserved"]) != (RECEIVED - sold, 0):
        wrong.append(f"the shelf has {stock}, and should have {RECEIVED - sold} and none reserved")
    return wrong


# --- a stack to walk through ------------------------------------------------------------------


def _running(dev: Path | None) -> Path | None:
    """The dev.json of a stack that runs; None where there is none."""
    file = dev_file(dev)
    if file is None or not file.exists():
        if dev is not None or os.environ.get("TIDELOG_DEV"):
            raise ConfigurationError(f"{file} is not there; start the stack with: ./dev up")
        return None
    try:
        os.kill(int(read_dev(file)["pid"]), 0)
    except ProcessLookupError:
        return None  # left behind by a stack that was killed
    return file


@contextmanager
def own_stack() -> Iterator[Path]:
    """A stack that is thrown away; its dev.json."""
    with tempfile.TemporaryDirectory(prefix="tidelog-demo-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL may run as another user
        data, told = folder / "data", folder / "up.log"
        say("no stack runs: starting one of its own")
        command = [sys.executable, "-m", "tidelog.cli", "up", "--data", str(data), "--no-seed"]
        environment = {k: v for k, v in os.environ.items() if k != "TIDELOG_DEV"}
        with told.open("w") as log:
            up = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        try:
            yield _ready(up, data / "dev.json", told)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(STOP_TIMEOUT_S)


def _ready(up: subprocess.Popen[bytes], file: Path, log: Path) -> Path:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not file.exists():
        if up.poll() is not None or time.monotonic() > deadline:
            told = log.read_text(errors="replace")[-2_000:]
            raise Unavailable(f"the stack does not start:\n{told}")
        time.sleep(POLL_S)
    return file
