"""Mails to a real mail server that misbehaves: what arrives, and what is said to have happened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from sagas.effects.mail import Mails
from schemas.notifications import (
    NotificationRequested,
    RecordNotificationFailed,
    RecordNotificationSent,
)
from tests.effect_attempts import ATTEMPT
from tests.service_process import ServiceProcess, free_port, running
from tidelog import replace
from tidelog.breaker import BreakerOptions
from tidelog.effects.definition import NoAnswer, NotNow, NotSent, WorkRefused
from tidelog.effects.mail_server import MailAddress, MailServer

SENDER = "shop@tidelog.example"
TO = "c-1@customers.example"
REQUESTED = NotificationRequested(
    notification_id="order-confirmed.1",
    order_id="o-1",
    kind="order-confirmed",
    recipient=TO,
    title="Bestätigt",
    text="Grüße\n.\n.. and what begins with a dot\n",
)
SENT = RecordNotificationSent(notification_id="order-confirmed.1")
MESSAGE_ID = "<order-confirmed.1@tidelog.example>"


@dataclass
class Sink:
    """The mail server in small."""

    process: ServiceProcess
    smtp_port: int

    async def behave(self, **behaviour: Any) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.put(self.process.url + "/behaviour", json=behaviour)
        assert answer.status_code == 200, answer.text

    async def messages(self, to: str = "") -> list[dict[str, Any]]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(self.process.url + "/messages", params={"to": to})
        found: list[dict[str, Any]] = answer.json()
        return found

    def mails(self, **more: Any) -> Mails:
        security = more.pop("security", "none")
        address = MailAddress(host="127.0.0.1", port=self.smtp_port, security=security)
        return Mails(MailServer("mail-test", address, timeout_s=1.0, **more), SENDER)


@pytest.fixture
def process(tmp_path: Path) -> ServiceProcess:
    settings = {"state_dir": tmp_path / "state", "smtp_port": free_port()}
    return ServiceProcess("sagas.world.mail", settings, tmp_path / "mail.log")


@pytest.fixture
def sink(process: ServiceProcess) -> Iterator[Sink]:
    with running(process):
        yield Sink(process, process.settings["smtp_port"])


@pytest.fixture
def mails(sink: Sink) -> Mails:
    return sink.mails()


async def test_a_mail_arrives_as_it_was_written(mails: Mails, sink: Sink) -> None:
    assert await mails.send_mail(REQUESTED, ATTEMPT) == SENT

    (arrived,) = await sink.messages(TO)
    assert arrived["message_id"] == MESSAGE_ID
    assert (arrived["from"], arrived["to"]) == (SENDER, [TO])
    assert arrived["subject"] == "Bestätigt"
    assert arrived["text"].replace("\r\n", "\n") == REQUESTED.text
    assert arrived["headers"]["X-Order-Id"] == "o-1"
    assert await sink.messages("somebody@else.example") == []


async def test_what_arrived_is_there_after_a_kill(mails: Mails, sink: Sink) -> None:
    await mails.send_mail(REQUESTED, ATTEMPT)

    await asyncio.to_thread(sink.process.kill)
    await asyncio.to_thread(sink.process.start)
    await asyncio.to_thread(sink.process.wait_ready)

    assert [each["message_id"] for each in await sink.messages()] == [MESSAGE_ID]


async def test_an_answer_that_is_lost_makes_a_copy_that_is_known_by_its_message_id(
    mails: Mails, sink: Sink
) -> None:
    await sink.behave(mode="lose-answer")
    with pytest.raises(NoAnswer) as unknown:
        await mails.send_mail(REQUESTED, ATTEMPT)
    assert not isinstance(unknown.value, NotSent)
    await sink.behave(mode="approve")

    assert await mails.send_mail(REQUESTED, ATTEMPT) == SENT

    assert [each["message_id"] for each in await sink.messages()] == [MESSAGE_ID] * 2


async def test_no_answer_to_a_whole_mail_is_not_taken_for_a_no(mails: Mails, sink: Sink) -> None:
    await sink.behave(mode="hang")

    with pytest.raises(NoAnswer) as unknown:
        await mails.send_mail(REQUESTED, ATTEMPT)
    assert not isinstance(unknown.value, NotSent)


async def test_a_server_that_cannot_now_has_not_taken_the_mail(mails: Mails, sink: Sink) -> None:
    await sink.behave(mode="error")

    with pytest.raises(NotSent, match="451"):
        await mails.send_mail(REQUESTED, ATTEMPT)
    assert await sink.messages() == []


async def test_nobody_there_is_known_to_have_taken_nothing() -> None:
    nobody = MailServer("nobody", MailAddress(host="127.0.0.1", port=free_port()), timeout_s=1.0)

    with pytest.raises(NotSent):
        await Mails(nobody, SENDER).send_mail(REQUESTED, ATTEMPT)


async def test_a_refusal_for_good_says_that_the_notification_failed(
    mails: Mails, sink: Sink
) -> None:
    await sink.behave(mode="decline", only=TO)

    with pytest.raises(WorkRefused, match="550") as refused:
        await mails.send_mail(REQUESTED, ATTEMPT)

    assert isinstance(refused.value.outcome, RecordNotificationFailed)
    assert refused.value.outcome.reason == "mail-test answered 550 5.1.1 Told to refuse."
    other = replace(REQUESTED, recipient='".c..2"@customers.example')
    assert await mails.send_mail(other, ATTEMPT) == SENT


async def test_refusals_of_single_mails_do_not_open_the_breaker(sink: Sink) -> None:
    mails = sink.mails(breaker=BreakerOptions(calls_min=2, open_s=60))
    await sink.behave(mode="decline", only=TO)
    for _ in range(4):
        with pytest.raises(WorkRefused):
            await mails.send_mail(REQUESTED, ATTEMPT)


async def test_the_breaker_defers_mails_and_lets_them_go_again(sink: Sink) -> None:
    mails = sink.mails(breaker=BreakerOptions(calls_min=2, open_s=0.2))
    await sink.behave(mode="error")
    for _ in range(2):
        with pytest.raises(NotSent):
            await mails.send_mail(REQUESTED, ATTEMPT)

    with pytest.raises(NotNow) as deferred:
        await mails.send_mail(REQUESTED, ATTEMPT)

    await sink.behave(mode="approve")
    await asyncio.sleep(deferred.value.after_s)
    assert await mails.send_mail(REQUESTED, ATTEMPT) == SENT
    assert len(await sink.messages()) == 1


async def test_nothing_goes_out_in_the_clear_where_that_is_not_wanted(sink: Sink) -> None:
    mails = sink.mails(security="starttls")  # which the sink does not offer

    with pytest.raises(NotSent):
        await mails.send_mail(REQUESTED, ATTEMPT)
    assert await sink.messages() == []
