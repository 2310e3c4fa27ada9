"""How long an order takes from placed to confirmed in a whole system that does nothing else.

.venv/bin/python -m bench.fulfilment --orders 100

Part of R7. The system is that of `./dev up`; the times are those of the events in the log. On the
way are six events of orders and stock, two of the payment, two of the shipment, a call of the
provider and one of a carrier, each through Kafka, PostgreSQL and the commands' topics.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx

from bench.sample import percentile
from bench.shop import body

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
CONFIRM_TIMEOUT_S = 60.0
LOOK_S = 0.5
WARM_UP = 10
"""The first orders are not counted: every process does its first work then."""


def main() -> int:
    """Start a system, place orders, tell the times."""
    arguments = parsed()
    with running_system(arguments.dev) as dev:
        seconds = confirmed_after(dev, arguments.orders, arguments.pause)
    shares = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (1.0, "at worst"))
    figures = ", ".join(
        f"{name} {percentile(seconds, share) * 1e3:.0f} ms" for share, name in shares
    )
    print(f"placed → confirmed, {len(seconds)} orders, one per {arguments.pause:g} s: {figures}")
    return 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.fulfilment", description=__doc__)
    parser.add_argument("--orders", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two orders")
    parser.add_argument("--dev", type=Path, help="dev.json of a running system")
    return parser.parse_args()


def confirmed_after(dev: dict[str, Any], orders: int, pause_s: float) -> list[float]:
    """Seconds from OrderPlaced to OrderConfirmed of each order."""
    gateway, queries = dev["gateway"]["url"], dev["query"]["url"]
    content = body()
    ids = [f"bench-{time.time_ns()}-{number}" for number in range(orders + WARM_UP)]
    with httpx.Client(trust_env=False, timeout=30) as http:
        for line in json.loads(content)["lines"]:
            stock = {"quantity": 1_000_000}
            http.post(f"{gateway}/inventory/{line['sku']}/receive-stock", json=stock)
        for order_id in ids:
            path = f"{gateway}/orders/{order_id}/place-order"
            headers = {"content-type": "application/json"}
            http.post(path, content=content, headers=headers).raise_for_status()
            time.sleep(pause_s)
        return [_seconds(http, f"{queries}/orders/{each}/history") for each in ids[WARM_UP:]]


def _seconds(http: httpx.Client, url: str) -> float:
    deadline = time.monotonic() + CONFIRM_TIMEOUT_S
    while True:
        items = http.get(url).raise_for_status().json()["items"]
        at = {item["type"]: datetime.fromisoformat(item["time"]) for item in items}
        if "OrderConfirmed" in at:
            return (at["OrderConfirmed"] - at["OrderPlaced"]).total_seconds()
        assert time.monotonic() < deadline, f"{url}: {list(at)}"
        time.sleep(LOOK_S)


@contextmanager
def running_system(dev_file: Path | None) -> Iterator[dict[str, Any]]:
    """The system that is described, or one of our own, stopped in the end."""
    if dev_file is not None:
        yield json.loads(dev_file.read_text())
        return
    with tempfile.TemporaryDirectory(prefix="tidelog-bench-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL may run as another user
        found = Path(folder) / "data" / "dev.json"
        command = (sys.executable, "-m", "tidelog.cli", "up", "--no-seed", "--data", found.parent)
        process = subprocess.Popen(command, stdout=sys.stderr)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not found.exists():
                assert process.poll() is None, "the system did not start; its lines above say why"
                assert time.monotonic() < deadline, f"no system in {START_TIMEOUT_S} s"
                time.sleep(LOOK_S)
            yield json.loads(found.read_text())
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main())
