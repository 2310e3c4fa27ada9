"""Given the live windows, when a client follows GET /metrics/live, then it sees what is counted."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from query_service.app import build
from tests.integration.command_server import serving
from tests.live_shop import LiveShop, live_shop, orders
from tests.log_writer import until
from tests.service_process import ServiceProcess, running
from tidelog.settings import Settings

MODULE = "projectors.live_metrics"
TIMEOUT_S = 30.0


@pytest.fixture
def shop(kafka: str, namespace: str, tmp_path: Path) -> Iterator[LiveShop]:
    with live_shop(kafka, namespace, tmp_path) as shop:
        yield shop


class Seen(NamedTuple):
    """One event as a client reads it."""

    id: str
    event: str
    data: dict[str, Any]


@contextmanager
def queries(process: ServiceProcess, streams_max: int = 10) -> Iterator[str]:
    """A query service that finds the process, and no database: this query needs none."""
    settings = Settings(
        live_metrics_url=process.url,
        postgres_dsn="postgresql://nobody@127.0.0.1:9/none",
        event_streams_max=streams_max,
    )
    with serving(build(settings, CollectorRegistry())) as url:
        yield f"{url}/metrics/live"


@contextmanager
def following(url: str, had: str | None = None) -> Iterator[Iterator[Seen]]:
    """The events of a stream; they end where the stream does."""
    headers = {} if had is None else {"Last-Event-ID": had}
    with httpx2.stream("GET", url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream"
        yield events(answer.iter_lines())


def events(lines: Iterator[str]) -> Iterator[Seen]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif fields:
            yield Seen(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def collected(seen: Iterator[Seen], position: str) -> list[dict[str, Any]]:
    """Every window as the events leave it, once they hold the position."""
    windows: dict[str, dict[str, Any]] = {}
    for each in seen:
        assert each.event == "windows"
        windows |= {window["from"]: window for window in each.data["windows"]}
        if each.id == position:
            return [windows[start] for start in sorted(windows)]
    raise AssertionError("the stream has ended")


def refused(url: str, had: str | None = None) -> tuple[int, str]:
    headers = {} if had is None else {"Last-Event-ID": had}
    answer = httpx2.get(url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_a_client_sees_every_window_and_then_those_that_change(
    shop: LiveShop, tmp_path: Path
) -> None:
    shop.append(list(orders(random.Random(1), 50, "before")))
    process = ServiceProcess(MODULE, dict(shop.settings), tmp_path / "live.log")

    with running(process), queries(process) as url, following(url) as seen:
        before, expected = shop.computed()
        assert collected(seen, before) == expected

        shop.append(list(orders(random.Random(2), 50, "while")))
        after, expected = shop.computed()
        changed = {window["from"]: window for window in collected(seen, after)}
        assert expected[-1] == changed[expected[-1]["from"]]

        with following(url) as fresh:
            assert collected(fresh, after) == expected


def test_a_client_that_comes_back_gets_only_what_is_new(shop: LiveShop, tmp_path: Path) -> None:
    shop.append(list(orders(random.Random(1), 50, "before")))
    process = ServiceProcess(MODULE, dict(shop.settings), tmp_path / "live.log")

    with running(process), queries(process) as url:
        position, expected = shop.computed()
        with following(url) as seen:
            assert collected(seen, position) == expected
        with following(url, had=position) as seen:
            shop.append(list(orders(random.Random(2), 1, "new")))
            assert next(seen).id != position

        for unknown in ("nonsense", "nobody:0:1", "orders:0:1,", "orders:0:x"):
            assert refused(url, unknown) == (400, "malformed")
        assert refused(f"{url}?limit=1") == (400, "malformed")


def test_without_the_process_the_streams_end_and_new_ones_are_told_to_wait(
    shop: LiveShop, tmp_path: Path
) -> None:
    process = ServiceProcess(MODULE, dict(shop.settings), tmp_path / "live.log")

    with queries(process) as url:
        assert refused(url) == (503, "unavailable")
        with running(process):
            shop.append(list(orders(random.Random(1), 10, "one")))
            with following(url) as seen:
                position, expected = shop.computed()
                assert collected(seen, position) == expected
                process.kill()
                assert list(seen) == []
            assert refused(url) == (503, "unavailable")
            process.start()
            process.wait_ready()
            with following(url) as seen:
                assert collected(seen, position) == expected


def test_one_client_too_many_is_refused_until_another_leaves(
    shop: LiveShop, tmp_path: Path
) -> None:
    process = ServiceProcess(MODULE, dict(shop.settings), tmp_path / "live.log")

    with running(process), queries(process, streams_max=1) as url:
        with following(url) as seen:
            next(seen)
            assert refused(url) == (429, "quota-exceeded")
        until(lambda: served(url), "the slot is free again")


def served(url: str) -> bool:
    with httpx2.stream("GET", url, timeout=TIMEOUT_S, trust_env=False) as answer:
        return answer.status_code == 200
