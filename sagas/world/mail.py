"""A mail server in small: `python -m sagas.world.mail`. It takes mails by SMTP and keeps them.

    SMTP on TIDELOG_SMTP_PORT       whatever is sent is kept, and goes nowhere
    GET  /messages                  what has arrived, in order; ?to= one address only
    PUT  /behaviour                 how it behaves from now on
    GET  /behaviour

It does as real mail servers do: what is sent twice arrives twice, under one Message-ID.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sagas.world.behaviour import HANG_S_MAX, Behaviour, Mode, decoded
from sagas.world.books import Books
from sagas.world.process import answer
from tidelog import __version__
from tidelog.http.server import serve
from tidelog.http.service import Service, build_service
from tidelog.ids import utc_now
from tidelog.settings import Settings

MAIL_BYTES_MAX = 1024 * 1024
SILENCE_S_MAX = 60.0


class Mailbox:
    """Every mail that was taken, and how the next ones are met. One event loop uses it."""

    def __init__(self, books: Books) -> None:
        self.behaviour = Behaviour()
        self.messages: list[dict[str, Any]] = []
        self._books = books
        for entry in books.read():
            self.messages.append(entry)

    def take(self, sender: str, recipients: list[str], content: bytes) -> None:
        """Keep a mail: whoever was told so may forget it."""
        mail = email.message_from_bytes(content, policy=email.policy.default)
        part = mail.get_body(("plain",))
        payload = b"" if part is None else part.get_payload(decode=True)
        entry = {
            "number": len(self.messages) + 1,
            "message_id": str(mail["Message-ID"] or "").strip(),
            "from": sender,
            "to": recipients,
            "subject": str(mail["Subject"] or ""),
            "text": payload.decode(errors="replace") if isinstance(payload, bytes) else "",
            "headers": {name: str(value) for name, value in mail.items()},
            "at": utc_now(),
        }
        self._books.write(entry)
        self.messages.append(entry)

    def sent_to(self, address: str) -> list[dict[str, Any]]:
        """What was sent to this address; to any, where it is empty."""
        return [each for each in self.messages if not address or address in each["to"]]


class Conversation:
    """One connection of a client; the names of its methods are the library's."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._mode: Mode = "approve"

    async def handle_RCPT(  # noqa: N802
        self,
        server: SMTP,  # noqa: ARG002
        session: Session,  # noqa: ARG002
        envelope: Envelope,
        address: str,
        rcpt_options: list[str],
    ) -> str:
        """Whether mail for this address is taken; here it is drawn how the mail fares."""
        self._mode = self._mailbox.behaviour.drawn(address)
        if self._mode == "decline":
            return "550 5.1.1 Told to refuse."
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(rcpt_options)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802
        self,
        server: SMTP,
        session: Session,  # noqa: ARG002
        envelope: Envelope,
    ) -> str:
        """Take the mail, or do what was told."""
        if self._mode == "error":
            return "451 4.3.0 Told to fail."
        if self._mode == "hang":
            await asyncio.sleep(HANG_S_MAX)
            return "451 4.3.0 Nobody waits any more."
        if self._mode == "slow":
            await asyncio.sleep(self._mailbox.behaviour.delay_ms / 1000)
        for _ in range(2 if self._mode == "twice" else 1):
            assert isinstance(envelope.content, bytes) and envelope.mail_from is not None
            self._mailbox.take(envelope.mail_from, list(envelope.rcpt_tos), envelope.content)
        if self._mode == "lose-answer":
            cast("asyncio.Transport", server.transport).abort()
        return "250 2.0.0 Taken"


def routes_of(mailbox: Mailbox) -> list[Route]:
    """The mailbox over HTTP."""

    async def read_messages(request: Request) -> Response:
        return answer(mailbox.sent_to(request.query_params.get("to", "")))

    async def behave(request: Request) -> Response:
        mailbox.behaviour = decoded(await request.body(), Behaviour)
        return answer(mailbox.behaviour)

    async def read_behaviour(_: Request) -> Response:
        return answer(mailbox.behaviour)

    return [
        Route("/messages", read_messages),
        Route("/behaviour", behave, methods=["PUT"]),
        Route("/behaviour", read_behaviour),
    ]


def wire(settings: Settings) -> Service:
    """The sink: SMTP for as long as HTTP is served."""
    mailbox = Mailbox(Books(settings.state_dir / "mails.jsonl"))

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(
                Conversation(mailbox),
                data_size_limit=MAIL_BYTES_MAX,
                hostname="mail.example",
                timeout=SILENCE_S_MAX,
                loop=loop,
            ),
            settings.http_host,
            settings.smtp_port,
        )
        try:
            yield
        finally:
            server.close()

    return build_service(
        name="mail",
        version=__version__,
        routes=routes_of(mailbox),
        lifespan=life,
        instance=settings.instance,
    )


def main() -> int:
    """Run until a signal; 0 after a clean stop, 1 if it could not start."""
    return serve("mail", wire)


if __name__ == "__main__":
    sys.exit(main())
