"""One notification: a mail that is to be sent, and what came of it.

    requested ── sent
        └── failed ── sent      a person had it tried again

Its id follows from its cause, so whoever asks again means the same mail, whatever the words.
"""

from __future__ import annotations

from typing import Literal, assert_never

from schemas.notifications import (
    NOTIFICATIONS,
    NotificationCommand,
    NotificationEvent,
    NotificationFailed,
    NotificationRequested,
    NotificationSent,
    RecordNotificationFailed,
    RecordNotificationSent,
    RequestNotification,
)
from tidelog import Aggregate, Rejected, State, replace


class Notification(State):
    """What the rules need: the step, and what its events repeat."""

    status: Literal["new", "requested", "sent", "failed"] = "new"
    order_id: str = ""
    kind: str = ""


class NotificationNeverRequested(Rejected):
    """There is no such notification: it was never requested."""


def decide(command: NotificationCommand, state: Notification) -> list[NotificationEvent]:
    """The events that the command causes."""
    match command:
        case RequestNotification():
            return [] if state.status != "new" else [_requested(command)]
        case RecordNotificationSent(notification_id=id):
            _check_requested(id, state)
            if state.status == "sent":
                return []
            return [NotificationSent(notification_id=id, order_id=state.order_id, kind=state.kind)]
        case RecordNotificationFailed(notification_id=id, reason=reason):
            _check_requested(id, state)
            if state.status != "requested":
                return []  # failed already, or sent by now: that counts
            return [
                NotificationFailed(
                    notification_id=id, order_id=state.order_id, kind=state.kind, reason=reason
                )
            ]
    assert_never(command)


def evolve(state: Notification, event: NotificationEvent) -> Notification:
    """The notification after the event."""
    match event:
        case NotificationRequested(order_id=order_id, kind=kind):
            return replace(state, status="requested", order_id=order_id, kind=kind)
        case NotificationSent():
            return replace(state, status="sent")
        case NotificationFailed():
            return replace(state, status="failed")
    assert_never(event)


notifications = Aggregate(
    name="notification",
    context=NOTIFICATIONS,
    initial=Notification(),
    decide=decide,
    evolve=evolve,
)


def _requested(command: RequestNotification) -> NotificationRequested:
    return NotificationRequested(
        notification_id=command.notification_id,
        order_id=command.order_id,
        kind=command.kind,
        recipient=command.recipient,
        title=command.title,
        text=command.text,
    )


def _check_requested(id: str, state: Notification) -> None:
    if state.status == "new":
        raise NotificationNeverRequested(id)
