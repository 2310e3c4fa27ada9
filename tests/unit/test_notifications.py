"""The notification's rules: a mail is asked for once, and what came of it is said once."""

from __future__ import annotations

from command_service.notifications import NotificationNeverRequested, notifications
from schemas.notifications import (
    NotificationFailed,
    NotificationRequested,
    NotificationSent,
    RecordNotificationFailed,
    RecordNotificationSent,
    RequestNotification,
)
from tidelog import replace
from tidelog.testing import given

ID = "order-confirmed.0199"
MAIL = {
    "notification_id": ID,
    "order_id": "o-1",
    "kind": "order-confirmed",
    "recipient": "c-1@customers.example",
    "title": "Confirmed",
    "text": "It is on its way.",
}

request = RequestNotification(**MAIL)
record_sent = RecordNotificationSent(notification_id=ID)
record_failed = RecordNotificationFailed(notification_id=ID, reason="550 no such mailbox")

requested = NotificationRequested(**MAIL)
sent = NotificationSent(notification_id=ID, order_id="o-1", kind="order-confirmed")
failed = NotificationFailed(
    notification_id=ID, order_id="o-1", kind="order-confirmed", reason="550 no such mailbox"
)


def test_a_notification_holds_the_whole_mail() -> None:
    given(notifications).when(request).then(requested)


def test_asking_again_is_quiet_even_in_other_words() -> None:
    given(notifications, requested).when(replace(request, text="It will come.")).then()
    given(notifications, requested, sent).when(request).then()


def test_a_mail_that_was_taken_is_sent() -> None:
    given(notifications, requested).when(record_sent).then(sent)
    given(notifications, requested, sent).when(record_sent).then()


def test_a_mail_that_was_refused_has_failed() -> None:
    given(notifications, requested).when(record_failed).then(failed)
    given(notifications, requested, failed).when(record_failed).then()


def test_a_failed_mail_may_be_sent_after_all() -> None:
    given(notifications, requested, failed).when(record_sent).then(sent)


def test_a_failure_that_is_told_late_changes_nothing() -> None:
    given(notifications, requested, sent).when(record_failed).then()


def test_nothing_comes_of_what_was_never_asked_for() -> None:
    given(notifications).when(record_sent).rejected(NotificationNeverRequested)
    given(notifications).when(record_failed).rejected(NotificationNeverRequested)
