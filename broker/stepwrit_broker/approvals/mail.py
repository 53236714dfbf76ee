"""Tells persons of approvals that wait for them: by e-mail, to the address that the operator registered.

A mail has the tool, its impact, who asks, until when, and the page's address: no argument, no text of the
approval, nothing that signs. Each person gets one mail per interval at most; what comes in between is told
together, and what is over by then is not told at all. So nobody can fill a mailbox by asking.
"""

from __future__ import annotations

import asyncio
import email.errors
import email.utils
import smtplib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import Final, Literal

from stepwrit_broker.approvals.outbox import Counted, NotDelivered
from stepwrit_broker.core.plain import plain
from stepwrit_broker.ports_approval import Notice

CHANNEL: Final = "mail"
TIMEOUT_S: Final = 20.0
SHOWN_MAX: Final = 20
KEPT_MAX: Final = 200
TOLD: Final = frozenset({"asked", "reminded"})
OVER: Final = frozenset({"given", "denied", "cancelled", "expired"})
Security = Literal["starttls", "tls", "none"]
EmailOf = Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """The submission server (RFC 6409). sender: an address, may have a name. security `none`: loopback only.

    user: empty for none; then the password is in `password_file`. every_s: one mail per person and interval.
    """

    host: str
    port: int
    sender: str
    security: Security = "starttls"
    user: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    every_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One mail to one person, ready to be sent."""

    to: str = field(repr=False)
    message: EmailMessage = field(repr=False)


@dataclass(slots=True)
class _Box:
    """What is to be told to one person, by approval, and when the next mail may go."""

    waits: dict[str, Notice] = field(default_factory=dict[str, Notice])
    next_at: float = 0.0


class Mailer:
    """Gathers notices by person. `put`: where a finished mail goes, and until when it is worth sending."""

    def __init__(
        self, server: MailServer, email_of: EmailOf, put: Callable[[Mail, float], None], count: Counted
    ) -> None:
        self._sender, self._every_s = sender_of(server.sender), server.every_s
        self._email_of, self._put, self._count = email_of, put, count
        self._boxes: Final[dict[str, _Box]] = {}

    def __call__(self, notice: Notice) -> None:
        """Note it; `flush` sends."""
        if notice.event in OVER:
            for box in self._boxes.values():
                box.waits.pop(notice.approval, None)
        if notice.event not in TOLD:
            return
        for person in notice.to:
            box = self._boxes.setdefault(person, _Box())
            if len(box.waits) < KEPT_MAX:
                box.waits[notice.approval] = notice

    def flush(self, now: float) -> None:
        """Make the mails that are due; call it every second or so."""
        for person, box in list(self._boxes.items()):
            if now < box.next_at:
                continue
            if not box.waits:
                del self._boxes[person]  # its interval is over, and it holds nothing
                continue
            waits = [each for each in box.waits.values() if each.expires_at > now]
            box.waits, box.next_at = {}, now + self._every_s
            self._send(person, waits, now)

    def _send(self, person: str, waits: list[Notice], now: float) -> None:
        address = self._email_of(person)
        if not waits or address is None:
            return
        try:
            mail = Mail(to=address, message=_message(self._sender, address, waits, now))
        except ValueError:  # the registry's address is none
            self._count(CHANNEL, "failed")
            return
        self._put(mail, max(each.expires_at for each in waits))


def sender_of(text: str) -> Address:
    """`a@b` or `Name <a@b>`. Raises ValueError."""
    name, spec = email.utils.parseaddr(text)
    if not text.isprintable():
        raise ValueError("not a mail address")
    return _address(spec, name)


def _address(spec: str, name: str = "") -> Address:
    """Exactly one address; whatever could begin another header or recipient is refused. Raises ValueError."""
    user, _, domain = spec.rpartition("@")
    if not user or not domain or not spec.isprintable() or any(each in spec for each in ' ,;<>()"\\'):
        raise ValueError("not a mail address")
    try:
        return Address(display_name=name, addr_spec=spec)
    except (IndexError, ValueError, email.errors.HeaderParseError):
        raise ValueError("not a mail address") from None


def _message(sender: Address, to: str, waits: list[Notice], now: float) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = sender, _address(to)
    message["Subject"] = _subject(waits)
    message["Date"] = email.utils.formatdate(now)
    message["Message-ID"] = f"<{waits[0].approval}.{waits[0].ref}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence note answers it
    message.set_content("\n".join([*_greeting(waits), *(_told(each) for each in waits[:SHOWN_MAX]), _END]))
    return message


def _subject(waits: list[Notice]) -> str:
    first = waits[0]
    if len(waits) == 1:
        again = "still waits" if first.event == "reminded" else "waits"
        return f"An approval {again} for you: {plain(first.tool)} ({first.impact} impact)"
    return f"{len(waits)} approvals wait for you"


def _greeting(waits: list[Notice]) -> list[str]:
    if len(waits) == 1:
        return ["Somebody must look at this, and you are one of those who may sign it.", ""]
    more = len(waits) - SHOWN_MAX
    tail = f" Here are the first {SHOWN_MAX}." if more > 0 else ""
    return [f"{len(waits)} approvals wait, and you are one of those who may sign them.{tail}", ""]


def _told(notice: Notice) -> str:
    until = datetime.fromtimestamp(notice.expires_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{plain(notice.tool)}, {notice.impact} impact\n"
        f"asked for by {plain(notice.initiator)}\n"
        f"until {until}\n"
        f"{notice.url}\n"
    )


_END: Final = (
    "The page shows what would be done, after you have signed in. Sign only what you expect.\n"
    "Nobody needs a password, a code or an answer to this mail from you."
)


async def deliver(server: MailServer, mail: Mail) -> None:
    """One try, in a thread. Raises NotDelivered."""
    await asyncio.to_thread(_deliver, server, mail)


def _deliver(server: MailServer, mail: Mail) -> None:
    try:
        with _connected(server) as smtp:
            smtp.send_message(mail.message, to_addrs=[mail.to])
    except smtplib.SMTPAuthenticationError as no:
        raise NotDelivered(f"the mail server refused our login ({no.smtp_code})", again=False) from None
    except smtplib.SMTPRecipientsRefused as no:
        code = max((code for code, _ in no.recipients.values()), default=0)
        raise NotDelivered(f"the mail server refused a recipient ({code})", again=code < 500) from None
    except smtplib.SMTPResponseException as no:
        raise NotDelivered(f"the mail server said {no.smtp_code}", again=no.smtp_code < 500) from None
    except (smtplib.SMTPException, OSError, ValueError) as lost:
        raise NotDelivered(
            type(lost).__name__, again=not isinstance(lost, ssl.SSLCertVerificationError)
        ) from None


def _connected(server: MailServer) -> smtplib.SMTP:
    """A session that is encrypted and logged in as the settings say; STARTTLS that is not offered ends it."""
    tls = ssl.create_default_context(cafile=None if server.ca_file is None else str(server.ca_file))
    if server.security == "tls":
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_S, context=tls)
    else:
        smtp = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S)
    try:
        if server.security == "starttls":
            smtp.starttls(context=tls)  # raises where it is not offered: nothing was said yet
        if server.user and server.password_file is not None:
            smtp.login(server.user, server.password_file.read_text(encoding="utf-8").strip())
    except BaseException:
        smtp.close()
        raise
    return smtp
