"""Notifications: what a customer is told by mail, once per cause, and what came of it.

A notification holds the whole mail, so that what was said stands in the log, whatever a later
release would say.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schemas.values import Name
from tidelog.message import Command, Context, Event, Id, Text

Recipient = Annotated[str, Meta(min_length=3, max_length=320, pattern=r"^[\x21-\x7e]+(?![\s\S])")]
"""An address of mail in ASCII: `c-1@customers.example`."""

MailText = Annotated[str, Meta(min_length=1, max_length=40_000)]
"""The text of a mail: an order has at most 100 lines, each with a SKU of at most 128 characters."""


class RequestNotification(Command):
    """Tell the customer of an order something. The id says what of, so it is told once."""

    notification_id: Id
    order_id: Id
    kind: Id
    recipient: Recipient
    title: Name
    text: MailText


class RecordNotificationSent(Command):
    """The mail server took the mail."""

    notification_id: Id


class RecordNotificationFailed(Command):
    """The mail server will never take the mail; a person may have it tried again."""

    notification_id: Id
    reason: Text


class NotificationRequested(Event):
    """This mail is to be sent."""

    notification_id: Id
    order_id: Id
    kind: Id
    recipient: Recipient
    title: Name
    text: MailText


class NotificationSent(Event):
    """The mail server took the mail."""

    notification_id: Id
    order_id: Id
    kind: Id


class NotificationFailed(Event):
    """The mail server refused the mail for good."""

    notification_id: Id
    order_id: Id
    kind: Id
    reason: Text


NotificationCommand = RequestNotification | RecordNotificationSent | RecordNotificationFailed
NotificationEvent = NotificationRequested | NotificationSent | NotificationFailed

NOTIFICATIONS = Context(
    name="notifications",
    key="notification_id",
    commands=NotificationCommand,
    events=NotificationEvent,
)
