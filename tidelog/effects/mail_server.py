"""A mail server outside, spoken to over SMTP: within a time, behind a breaker.

SMTP knows no idempotency key. Up to the end of a mail's data nothing has happened; where the answer
to the data is lost nobody knows, and the mail goes out again. Both copies carry one Message-ID.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP as MAIL_FORM

import aiosmtplib

from tidelog.breaker import BreakerOptions
from tidelog.effects.definition import NoAnswer, NotSent, WorkRefused
from tidelog.effects.guard import Guard
from tidelog.errors import ConfigurationError, Unavailable

PERMANENT = 500
QUIT_S = 0.5
REASON_CHARACTERS_MAX = 300

# What every server takes: no letter beyond ASCII on the wire, and no header folded that need not
# be, for a Message-ID in two lines is not found by everybody.
FORM = MAIL_FORM.clone(cte_type="7bit", max_line_length=998)


@dataclass(frozen=True, kw_only=True)
class MailAddress:
    """Where the server is and how it is spoken to.

    `security` is none, starttls or tls; with either of the last two nothing goes out in the clear.
    A user is told to such a server only.
    """

    host: str
    port: int
    security: str = "none"
    user: str = ""
    password: str = ""

    def __post_init__(self) -> None:
        if self.user and self.security == "none":
            raise ConfigurationError(
                "TIDELOG_SMTP_USER: a password is not sent in the clear; set TIDELOG_SMTP_SECURITY"
            )


class MailServer:
    """One mail server. One event loop uses it; each mail has a connection of its own."""

    def __init__(
        self,
        name: str,
        address: MailAddress,
        *,
        timeout_s: float,
        breaker: BreakerOptions | None = None,
    ) -> None:
        self.name = name
        self._address = address
        self._timeout_s = timeout_s
        self._guard = Guard(name, breaker)

    async def send(self, message: EmailMessage, sender: str, recipient: str) -> None:
        """Hand the mail over, once.

        NotNow: the breaker is open. NotSent, Unavailable: the server has not taken it. NoAnswer:
        not known. WorkRefused: it will never take it.
        """
        no = await self._guard.call(lambda: self._hand_over(message, sender, recipient))
        if no is not None:
            raise no

    async def _hand_over(
        self, message: EmailMessage, sender: str, recipient: str
    ) -> WorkRefused | Unavailable | None:
        """What the server says to this mail, None being yes; NoAnswer where the server fails."""
        client = self._client(sender)
        content = message.as_bytes(policy=FORM)
        handing_over = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.connect()
                await client.mail(sender)
                await client.rcpt(recipient)
                handing_over = True
                await client.data(content)
            await _say_goodbye(client)
        except aiosmtplib.SMTPRecipientRefused as error:
            return self._refusal(error)  # of this mail: it says nothing about the server
        except aiosmtplib.SMTPDataError as error:
            if error.code >= PERMANENT:
                return self._refusal(error)
            raise NotSent(f"{self.name} did not take it: {_said(error)}") from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            if handing_over:
                raise NoAnswer(f"{self.name} gave no answer to a whole mail.") from error
            raise NotSent(f"{self.name} cannot be spoken to: {_said(error)}") from error
        finally:
            client.close()
        return None

    def _refusal(self, error: aiosmtplib.SMTPResponseException) -> WorkRefused | Unavailable:
        said = f"{self.name} answered {_said(error)}"
        return WorkRefused(said) if error.code >= PERMANENT else Unavailable(said)

    def _client(self, sender: str) -> aiosmtplib.SMTP:
        address = self._address
        return aiosmtplib.SMTP(
            hostname=address.host,
            port=address.port,
            username=address.user or None,
            password=address.password or None,
            local_hostname=sender.rpartition("@")[2],  # asking the resolver would take its time
            timeout=self._timeout_s,
            use_tls=address.security == "tls",
            start_tls=address.security == "starttls",  # never "where the server offers it"
        )


async def _say_goodbye(client: aiosmtplib.SMTP) -> None:
    """End the session; the mail was taken before it, whatever becomes of this."""
    with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
        async with asyncio.timeout(QUIT_S):
            await client.quit()


def _said(error: BaseException) -> str:
    """What the server said, as far as it is fit for a log: printable ASCII of a bounded length."""
    if isinstance(error, aiosmtplib.SMTPResponseException):
        text = f"{error.code} {error.message}"
    else:
        text = str(error) or type(error).__name__
    printable = "".join(each if " " <= each <= "~" else " " for each in text)
    return " ".join(printable.split())[:REASON_CHARACTERS_MAX]
