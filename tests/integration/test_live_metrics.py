"""Given the log, the live windows are the figures of the log, whatever happens to their process."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from schemas.orders import ORDERS, OrderPlaced
from tests.live_shop import LiveShop, live_shop, orders
from tests.log_writer import read_log, until
from tests.odd_record import append_odd_records
from tests.service_process import ServiceProcess, service

MODULE = "projectors.live_metrics"
LOSSY = "tests.lossy_live_metrics"
COUNTED_S = 180.0
KILLS = 3


@pytest.fixture
def shop(kafka: str, namespace: str, tmp_path: Path) -> Iterator[LiveShop]:
    with live_shop(kafka, namespace, tmp_path) as shop:
        yield shop


def shown(process: ServiceProcess) -> tuple[str, list[dict[str, Any]]] | None:
    """The position and the windows that the process shows; None while they are not whole."""
    answer = process.get("/windows")
    if answer is None or answer.status_code != 200:
        return None
    body = answer.json()
    return (body["position"], body["windows"]) if body["complete"] else None


def until_counted(shop: LiveShop, process: ServiceProcess) -> None:
    """Wait until the windows are the figures of the log as it stands."""
    figures = shop.computed()
    until(lambda: shown(process) == figures, "all is counted", COUNTED_S)


def counted(process: ServiceProcess, kind: str) -> float:
    """How many records became what, by /metrics."""
    answer = process.get("/metrics")
    found = answer and re.search(
        rf'^tidelog_live_records_total{{kind="{kind}"}} (\S+)$', answer.text, re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def test_the_windows_are_the_figures_of_the_log(shop: LiveShop, tmp_path: Path) -> None:
    shop.append(list(orders(random.Random(1), 100, "before")))

    with service(MODULE, tmp_path, shop.settings, wait_until_ready=False) as process:
        until(lambda: shown(process), "what was there is counted", COUNTED_S)
        shop.append(list(orders(random.Random(2), 100, "while")))
        until_counted(shop, process)

    position, windows = shop.computed()
    assert sum(window["orders"]["placed"] for window in windows) == 200 * 6
    assert len(position.split(",")) > 4


def test_killed_at_any_moment_it_ends_at_the_figures_of_the_log(
    shop: LiveShop, tmp_path: Path
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for kill in range(KILLS):
        with service(MODULE, tmp_path, shop.settings, wait_until_ready=False) as process:
            goal = counted(process, "taken") + chosen.randrange(1, 300)
            for batch in range(10):
                shop.append(list(orders(chosen, 20, f"{kill}-{batch}")))
            until(partial(has_counted, process, goal), "it counts", COUNTED_S)
            process.kill()
            shop.append(list(orders(chosen, 20, f"{kill}-dead")))

    with service(MODULE, tmp_path, shop.settings, wait_until_ready=False) as process:
        until_counted(shop, process)

    assert sum(window["orders"]["placed"] for window in shop.computed()[1]) == KILLS * 220 * 6


def has_counted(process: ServiceProcess, goal: float) -> bool:
    return counted(process, "taken") >= goal


FOREIGN = 4
UNREADABLE = 3


def test_what_is_aborted_repeated_or_not_ours_is_never_counted(
    shop: LiveShop, tmp_path: Path
) -> None:
    chosen = random.Random(4)
    shop.append(list(orders(chosen, 50, "first")))
    spoil(shop, chosen)

    with service(MODULE, tmp_path, shop.settings, wait_until_ready=False) as process:
        until(lambda: shown(process), "what was there is counted", COUNTED_S)
        shop.append(list(orders(chosen, 50, "while")))
        spoil(shop, chosen)
        shop.append(list(orders(chosen, 50, "last")))
        until_counted(shop, process)
        # What was there before is read by a client that reads the odd ones too.
        assert counted(process, "foreign") == 2 * FOREIGN + UNREADABLE
        assert counted(process, "unreadable") == UNREADABLE
        assert counted(process, "forks") > 0

    assert sum(window["orders"]["placed"] for window in shop.computed()[1]) == 150 * 6


def spoil(shop: LiveShop, chosen: random.Random) -> None:
    """Write what no reader may count: aborted, repeated, foreign and unreadable records."""
    log = shop.logs["orders"]
    log.abort(*(each for each in orders(chosen, 50, "aborted") if type(each) in ORDERS.event_types))
    for partition, records in enumerate(read_log(shop.kafka, log.topic, log.partitions)):
        for record in records[:5]:
            log.append_raw(partition, record.value, key=record.key, headers=record.headers)
    placed = next(each for each in orders(chosen, 1, "tea") if isinstance(each, OrderPlaced))
    foreign: list[tuple[bytes | None, list[tuple[str, bytes]]]] = [
        (b"not ours", []),
        (None, []),
        (shop.codec.encode(placed), [("ce_specversion", b"1.0")]),
        (shop.codec.encode(placed)[:-1], [("ce_sequence", b"7")]),
    ]
    assert len(foreign) == FOREIGN
    for value, headers in foreign:
        log.append_raw(log.partition("tea"), value, key=b"tea", headers=headers)
    append_odd_records(shop.kafka, log.topic, log.partition("tea"), UNREADABLE)


def test_what_faust_loses_is_read_again_and_what_it_repeats_is_not_counted(
    shop: LiveShop, tmp_path: Path
) -> None:
    with service(LOSSY, tmp_path, shop.settings, wait_until_ready=False) as process:
        until(lambda: shown(process), "it has begun", COUNTED_S)
        for batch in range(5):
            shop.append(list(orders(random.Random(batch), 40, f"{batch}")))
        until_counted(shop, process)
        assert counted(process, "holes") > 10
        assert counted(process, "redelivered") > 10
