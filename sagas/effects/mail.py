"""Mails: each notification is sent by its id, and what came of it is told.

The Message-ID follows from the notification, so a copy that was sent because an answer was lost is
known as one. While the breaker of the mail server is open the mails are deferred: they stay in the
table of work and go out later. A mail that the server refuses for good fails, and stays parked.
"""

from __future__ import annotations

from email.message import EmailMessage
from email.utils import format_datetime, localtime

from prometheus_client import Counter

from schemas.notifications import (
    NotificationRequested,
    RecordNotificationFailed,
    RecordNotificationSent,
)
from tidelog.effects.definition import Attempt, Effect, NotNow, RetryPolicy, WorkRefused, effect
from tidelog.effects.mail_server import MailServer
from tidelog.errors import Unavailable

_MAILS = Counter(
    "tidelog_mails_total",
    "Tries to send a mail: sent, deferred (the breaker is open), failed, refused for good.",
    ["kind", "outcome"],
)


class Mails:
    """The effect of mails, at one server. `sender` is the shop's address."""

    def __init__(self, server: MailServer, sender: str) -> None:
        self._server = server
        self._sender = sender

    def effects(self, retries: RetryPolicy) -> tuple[Effect, ...]:
        """Every one of them."""
        return (effect(NotificationRequested, self.send_mail, retries=retries),)

    async def send_mail(
        self, event: NotificationRequested, attempt: Attempt
    ) -> RecordNotificationSent:
        """Hand the mail to the server."""
        mail = mail_of(event, self._sender, attempt.correlation_id)
        try:
            await self._server.send(mail, self._sender, event.recipient)
        except NotNow:
            _MAILS.labels(event.kind, "deferred").inc()
            raise
        except WorkRefused as error:
            _MAILS.labels(event.kind, "refused").inc()
            failed = RecordNotificationFailed(
                notification_id=event.notification_id, reason=str(error)
            )
            raise WorkRefused(str(error), failed) from error
        except Unavailable:
            _MAILS.labels(event.kind, "failed").inc()
            raise
        _MAILS.labels(event.kind, "sent").inc()
        return RecordNotificationSent(notification_id=event.notification_id)


def mail_of(event: NotificationRequested, sender: str, correlation_id: str) -> EmailMessage:
    """The mail; every copy of it has the same Message-ID."""
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = event.recipient
    mail["Subject"] = event.title
    mail["Message-ID"] = message_id_of(event.notification_id, sender)
    mail["Date"] = format_datetime(localtime())
    mail["Auto-Submitted"] = "auto-generated"  # so that nobody's absence notice answers it
    mail["X-Order-Id"] = event.order_id
    mail["X-Notification-Kind"] = event.kind
    if correlation_id:
        mail["X-Correlation-Id"] = correlation_id
    mail.set_content(event.text)
    return mail


def message_id_of(notification_id: str, sender: str) -> str:
    """The Message-ID of a notification."""
    return f"<{notification_id}@{sender.rpartition('@')[2]}>"
