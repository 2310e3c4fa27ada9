"""Notifications from log to mailbox, with a mail server that fails and a notifier that dies.

The relay of the outbox runs here, for the process that has it would run the sagas as well.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from schemas import CONTEXTS
from tests.fixtures.servers import Database
from tests.log_writer import read_log, until
from tests.service_process import HTTP, ServiceProcess, free_port, running
from tidelog.codec import Codec
from tidelog.effects.work_store import WorkStore
from tidelog.kafka.outbox_relay import OutboxRelay, run_relay
from tidelog.registry import RegistryClient
from tidelog.wire import events_topic

PARTITIONS = 2
WAIT_S = 90.0
DAY = "2026-07-31"
HOME = {"name": "A", "street": "B", "city": "C", "postal_code": "1", "country": "DE"}
LINES = [{"sku": "tea", "quantity": 1, "unit_price": 100}]
GOODS = [{"sku": "tea", "quantity": 1}]
CALLS_MAX = 2
FAST = {
    "smtp_timeout_ms": 700,
    "effect_pause_ms": 100,
    "effect_lease_ms": 4_000,
    "effect_attempts_max": 50,
    "effect_calls_max": CALLS_MAX,
    "breaker_open_ms": 500,
}


@dataclass
class Shop:
    """The part of the shop that tells customers, and their mailbox."""

    kafka: str
    topic: str
    commands: ServiceProcess
    notifier: ServiceProcess
    mail: ServiceProcess
    database: Database
    sent: list[str] = field(default_factory=list)

    def send(self, path: str, **body: Any) -> None:
        """Send a command; it must be taken."""
        answer = HTTP.post(self.commands.url + path, json=body, timeout=20)
        assert answer.status_code in (200, 201), f"{path}: {answer.text}"

    def place(self, order_id: str) -> None:
        """A customer, named after the order, places it."""
        self.send(
            f"/orders/{order_id}/place-order",
            customer_id=f"buyer-of-{order_id}",
            currency="EUR",
            lines=LINES,
            ship_to=HOME,
        )

    def confirm(self, *order_ids: str) -> None:
        """Orders go well, as the sagas would lead them."""
        for order_id in order_ids:
            self.place(order_id)
            self.send(f"/orders/{order_id}/mark-order-reserved")
            self.send(f"/orders/{order_id}/mark-order-paid", paid_on=DAY)
            self.send(f"/orders/{order_id}/confirm-order")

    def cancel(self, order_id: str) -> None:
        """An order is undone before it was paid."""
        self.place(order_id)
        self.send(f"/orders/{order_id}/cancel-order", reason="changed my mind")
        self.send(f"/orders/{order_id}/complete-cancellation")

    def refund(self, order_id: str) -> None:
        """A payment is taken and paid back for a return."""
        path, money = f"/payments/{order_id}", {"amount": 100, "currency": "EUR"}
        self.send(f"{path}/request-payment", customer_id="c", **money)
        self.send(f"{path}/record-payment-captured", amount=100, captured_on=DAY)
        self.send(f"{path}/request-refund", return_id="r", amount=100)
        self.send(f"{path}/record-refund", return_id="r", amount=100)

    def send_back(self, return_id: str, order_id: str) -> None:
        """A return is asked for."""
        request = f"/returns/{return_id}/request-return"
        self.send(request, order_id=order_id, lines=GOODS, reason="worn")

    def behave(self, **behaviour: Any) -> None:
        """From now on the mail server behaves so."""
        answer = HTTP.put(self.mail.url + "/behaviour", json=behaviour)
        assert answer.status_code == 200, answer.text

    def messages(self) -> list[dict[str, Any]]:
        """What has arrived."""
        answer = HTTP.get(self.mail.url + "/messages", timeout=20)
        found: list[dict[str, Any]] = answer.json()
        return found

    def arrived(self) -> Counter[tuple[str, str]]:
        """How many mails there are, by kind and address."""
        return Counter(
            (each["headers"]["X-Notification-Kind"], each["to"][0].partition("@")[0])
            for each in self.messages()
        )

    def wait_arrived(self, least: int) -> None:
        """Until so many mails are there, copies included."""
        until(lambda: len(self.messages()) >= least, f"{least} mails", WAIT_S)

    def rows(self, query: str) -> list[Any]:
        """What PostgreSQL holds."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            return connection.execute(query.format(self.database.schema).encode()).fetchall()

    def work(self) -> list[Any]:
        """What is not done yet."""
        return self.rows("SELECT id, status, attempts, error FROM {}.effect_work")

    def logged(self) -> dict[str, Counter[str]]:
        """What the log says of each notification: how often which event."""
        found: dict[str, Counter[str]] = {}
        for records in read_log(self.kafka, self.topic, PARTITIONS):
            for record in records:
                headers = {name: value or b"" for name, value in record.headers}
                kind = headers["ce_type"].decode().rpartition(".")[2]
                found.setdefault(headers["ce_subject"].decode(), Counter())[kind] += 1
        return found

    def wait_sent(self, wanted: int) -> dict[str, Counter[str]]:
        """The log, once so many notifications are sent and no work is left."""

        def look() -> dict[str, Counter[str]] | None:
            found = self.logged()
            sent = sum("NotificationSent" in each for each in found.values())
            return found if sent >= wanted and not self.work() else None

        try:
            return until(look, f"{wanted} notifications are sent", WAIT_S)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{self.logged()}\n{self.work()}\n{self.notifier.tail()}"
            ) from None

    def metric(self, name: str, *labels: str) -> float:
        """The sum of a metric of the notifier over the series that have these labels."""
        answer = self.notifier.get("/metrics")
        assert answer is not None
        lines = [
            line
            for line in answer.text.splitlines()
            if line.startswith(f"{name}{{") and all(label in line for label in labels)
        ]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture
def shop(kafka: str, namespace: str, database: Database, tmp_path: Path) -> Iterator[Shop]:
    settings: dict[str, Any] = {
        "kafka_bootstrap_servers": kafka,
        "topic_prefix": namespace,
        "postgres_dsn": database.dsn,
        "postgres_schema": database.schema,
        "partitions": PARTITIONS,
        "session_timeout_ms": 3_000,
        "smtp_port": free_port(),
        **FAST,
    }

    def process(module: str) -> ServiceProcess:
        own = {**settings, "state_dir": tmp_path / module}
        return ServiceProcess(module, own, tmp_path / f"{module}.log")

    registry, mail = process("tidelog.registry"), process("sagas.world.mail")
    with ExitStack() as stack:
        stack.enter_context(running(registry, mail))
        settings["registry_url"] = registry.url
        commands, notifier = process("command_service"), process("sagas.notifications")
        stack.enter_context(running(commands, notifier))
        stack.enter_context(relaying(settings))
        topic = events_topic("notifications", namespace)
        yield Shop(kafka, topic, commands, notifier, mail, database)


@contextmanager
def relaying(settings: dict[str, Any]) -> Iterator[None]:
    """The relay of the outbox, as the process of the sagas runs it."""
    registry = RegistryClient(settings["registry_url"])
    relay = OutboxRelay(
        CONTEXTS,
        Codec(CONTEXTS, registry, settings["topic_prefix"]),
        bootstrap_servers=settings["kafka_bootstrap_servers"],
        partitions=PARTITIONS,
        topic_prefix=settings["topic_prefix"],
        dsn=settings["postgres_dsn"],
        schema=settings["postgres_schema"],
        window_hours=168,
    )
    stopping = threading.Event()
    arguments = (relay, stopping, lambda _depth: None, lambda _trouble: None)
    thread = threading.Thread(target=run_relay, args=arguments)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        registry.close()


def test_each_event_that_customers_are_told_of_is_one_mail(shop: Shop) -> None:
    shop.refund("good")  # who placed it is not known yet
    shop.confirm("good")
    shop.cancel("bad")
    for return_id in ("labelled", "refused", "failed"):
        shop.send_back(return_id, "good")
    shop.send("/returns/labelled/approve-return")
    shop.send("/returns/labelled/issue-return-label", carrier="north", tracking="T-1")
    shop.send("/returns/refused/refuse-return", reason="too late")
    shop.send("/returns/failed/fail-return", reason="lost")
    wanted = Counter(
        {
            ("order-confirmed", "buyer-of-good"): 1,
            ("order-cancelled", "buyer-of-bad"): 1,
            ("payment-refunded", "buyer-of-good"): 1,
            ("return-label", "buyer-of-good"): 1,
            ("return-refused", "buyer-of-good"): 1,
            ("return-failed", "buyer-of-good"): 1,
        }
    )

    logged = shop.wait_sent(len(wanted))

    assert shop.arrived() == wanted
    assert set(map(str, logged.values())) == {
        str(Counter(NotificationRequested=1, NotificationSent=1))
    }
    shop.notifier.kill()
    shop.notifier.start()
    shop.notifier.wait_ready()
    shop.confirm("next")
    shop.wait_sent(len(wanted) + 1)
    assert shop.arrived() == wanted + Counter({("order-confirmed", "buyer-of-next"): 1})


def test_mails_are_deferred_while_the_server_is_down_and_then_go_out_once(shop: Shop) -> None:
    shop.mail.kill()
    orders = [f"d-{number}" for number in range(12)]
    shop.confirm(*orders)
    until(
        lambda: shop.metric("tidelog_mails_total", 'outcome="deferred"') or None,
        "mails are deferred",
        WAIT_S,
    )
    until(
        lambda: shop.metric("tidelog_effect_work", 'effect="send-mail"', 'status="waiting"') == 12,
        "every mail is in the queue",
        WAIT_S,
    )

    shop.mail.start()

    shop.wait_sent(len(orders))
    assert shop.arrived() == Counter(("order-confirmed", f"buyer-of-{each}") for each in orders)
    assert shop.metric("tidelog_mails_total", 'outcome="sent"') == 12


def test_kills_and_lost_answers_lose_no_mail_and_show_each_copy_by_its_message_id(
    shop: Shop,
) -> None:
    shop.behave(mode="slow", delay_ms=300)
    orders = [f"k-{number}" for number in range(12)]
    shop.confirm(*orders)
    kills = (1, 5)
    for mails in kills:
        shop.wait_arrived(mails)
        shop.notifier.kill()
        shop.notifier.start()
    shop.wait_arrived(8)
    shop.behave(mode="lose-answer", rate=0.5)

    logged = shop.wait_sent(len(orders))

    copies = Counter(each["message_id"] for each in shop.messages())
    assert set(copies) == {f"<{each}@tidelog.example>" for each in logged}
    assert set(shop.arrived()) == {("order-confirmed", f"buyer-of-{each}") for each in orders}
    lost = shop.metric("tidelog_mails_total", 'outcome="failed"')
    assert copies.total() - len(copies) <= lost + len(kills) * CALLS_MAX
    # Whatever arrived twice was asked for once, and its end was told once.
    assert all(
        each == Counter(NotificationRequested=1, NotificationSent=1) for each in logged.values()
    )


async def test_a_mail_that_is_refused_for_good_waits_for_a_person_and_is_sent_then(
    shop: Shop,
) -> None:
    shop.behave(mode="decline", only="buyer-of-no@customers.example")
    shop.confirm("no", "yes")
    until(
        lambda: [each[1] for each in shop.work()] == ["parked"] and shop.messages(),
        "one mail arrives, and the other is a dead letter",
        WAIT_S,
    )
    until(
        lambda: [each for each in shop.logged().values() if each["NotificationFailed"]],
        "the failure is told",
        WAIT_S,
    )
    ((letter, status, attempts, error),) = shop.work()
    assert letter.startswith("send-mail:")
    assert (status, attempts) == ("parked", 1)
    assert error == "mail answered 550 5.1.1 Told to refuse."
    until(
        lambda: shop.metric("tidelog_effect_work", 'effect="send-mail"', 'status="parked"') == 1,
        "it is counted",
        WAIT_S,
    )
    assert shop.arrived() == Counter({("order-confirmed", "buyer-of-yes"): 1})

    shop.behave(mode="approve")
    store = WorkStore(CONTEXTS, dsn=shop.database.dsn, schema=shop.database.schema)
    await store.open()
    assert await store.retry_parked(letter) == 1
    await store.close()

    logged = shop.wait_sent(2)
    assert shop.arrived()["order-confirmed", "buyer-of-no"] == 1
    failed = Counter(NotificationRequested=1, NotificationFailed=1, NotificationSent=1)
    assert failed in logged.values()
