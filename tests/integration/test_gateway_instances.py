"""The gateway spreads commands over the instances that say they are ready."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx2
from prometheus_client import CollectorRegistry

from gateway.app import build
from tests.integration.command_server import serving
from tests.service_process import free_port
from tidelog.settings import Settings

DEADLINE_S = 20.0


@dataclass
class Instance:
    """A service that answers with its own name, and is ready or not."""

    name: str
    ready: bool = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        status = 503 if scope["path"] == "/readyz" and not self.ready else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": self.name.encode()})


@contextmanager
def door(*instances: Instance, more: str = "") -> Iterator[httpx2.Client]:
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(cast("Any", each))) for each in instances]
        settings = Settings(command_service_instances=",".join([*urls, *([more] if more else [])]))
        url = stack.enter_context(serving(build(settings, CollectorRegistry())))
        yield stack.enter_context(httpx2.Client(base_url=url, trust_env=False, timeout=20))


def asked(client: httpx2.Client, times: int = 30) -> Counter[str]:
    """Who has answered so many commands."""
    answers = [client.post("/orders/o/cancel-order", json={"reason": "x"}) for _ in range(times)]
    assert {answer.status_code for answer in answers} == {200}
    return Counter(answer.text for answer in answers)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_commands_go_to_every_instance_in_turn() -> None:
    with door(Instance("a"), Instance("b"), Instance("c")) as client:
        assert asked(client) == {"a": 10, "b": 10, "c": 10}


def test_an_instance_that_is_not_ready_is_sent_nothing_until_it_is() -> None:
    second = Instance("b")
    with door(Instance("a"), second) as client:
        second.ready = False
        until(lambda: set(asked(client)) == {"a"})
        second.ready = True
        until(lambda: set(asked(client)) == {"a", "b"})


def test_where_nobody_listens_the_next_instance_has_the_command() -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    with door(Instance("a"), more=gone) as client:
        assert asked(client) == {"a": 30}


def test_where_none_is_ready_the_answer_is_an_instances_own() -> None:
    with door(Instance("a", ready=False), Instance("b", ready=False)) as client:
        assert set(asked(client)) == {"a", "b"}
