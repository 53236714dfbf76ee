"""Mails through a real SMTP server: to whom, what is in them, what cannot be, and how many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.approvals.notices import ALICE, NOW, notice
from tests.fakes.receivers import Mailbox, smtp_server

from stepwrit_broker.approvals.mail import Mail, Mailer, MailServer, deliver, sender_of
from stepwrit_broker.approvals.outbox import NotDelivered
from stepwrit_broker.dev.tlsfiles import write_tls_files

EMAILS = {"bob": "bob@corp.example", "carol": "Carol.C@corp.example"}
SENDER = "Stepwrit <approvals@corp.example>"


class Mails:
    """A mailer whose finished mails are kept."""

    def __init__(self, emails: dict[str, str] | None = None, every_s: float = 60.0) -> None:
        self.made: list[Mail] = []
        self.counts: list[tuple[str, str]] = []
        self.until: list[float] = []
        server = MailServer(host="x", port=1, sender=SENDER, every_s=every_s)
        emails = EMAILS if emails is None else emails
        self.mailer = Mailer(server, emails.get, self.put, lambda *said: self.counts.append(said))

    def put(self, mail: Mail, until: float) -> None:
        self.made.append(mail)
        self.until.append(until)

    def at(self, after: float) -> list[Mail]:
        """What is made when so many seconds have gone."""
        before = len(self.made)
        self.mailer.flush(NOW + after)
        return self.made[before:]


def body(mail: Mail) -> str:
    text: str = mail.message.get_content()
    return text


def numbered(count: int, **changes: Any) -> Any:
    name = f"apr_100{count:026}"
    return notice(
        approval=name, url=f"https://broker.example/approvals/{name}", ref=f"REF{count:07}", **changes
    )


def test_each_person_who_may_sign_gets_one_mail_with_the_link_and_no_argument() -> None:
    mails = Mails()
    mails.mailer(notice())
    bob, carol = mails.at(0)

    assert [bob.to, carol.to] == ["bob@corp.example", "Carol.C@corp.example"]
    assert str(bob.message["To"]) == "bob@corp.example"
    assert str(bob.message["From"]) == "Stepwrit <approvals@corp.example>"
    assert str(bob.message["Subject"]) == "An approval waits for you: ledger/wipe (high impact)"
    assert bob.message["Auto-Submitted"] == "auto-generated"
    assert body(bob).splitlines()[2:6] == [
        "ledger/wipe, high impact",
        "asked for by spiffe://prod.example/agent/chat",
        "until 2027-01-15 08:15 UTC",
        notice().url,
    ]
    assert ALICE.subject not in bob.message.as_string()


def test_who_has_no_address_and_what_is_no_request_gets_no_mail() -> None:
    mails = Mails()
    mails.mailer(notice(to=("dave",)))
    mails.mailer(notice(to=()))
    for event in ("signed", "given", "denied", "cancelled", "expired"):
        mails.mailer(notice(event=event))
    assert mails.at(0) == []
    mails.mailer(notice(event="reminded", to=("bob",)))
    [again] = mails.at(0)
    assert str(again.message["Subject"]).startswith("An approval still waits for you")


def test_a_flood_of_requests_is_one_mail_in_each_interval() -> None:
    mails = Mails()
    mails.mailer(numbered(0, to=("bob",)))
    assert len(mails.at(0)) == 1
    for count in range(1, 31):
        mails.mailer(numbered(count, to=("bob",)))
        assert mails.at(count) == []
    [gathered] = mails.at(60)
    assert str(gathered.message["Subject"]) == "30 approvals wait for you"
    assert body(gathered).count("https://broker.example/approvals/") == 20
    assert "Here are the first 20." in body(gathered)
    assert mails.at(119) == []
    mails.mailer(numbered(99, to=("bob",)))
    assert mails.at(119) == []
    assert len(mails.at(120)) == 1


def test_what_is_over_by_then_is_not_told() -> None:
    mails = Mails()
    mails.mailer(numbered(0, to=("bob",)))
    mails.at(0)
    for count, event in enumerate(("given", "denied", "cancelled", "expired"), 1):
        mails.mailer(numbered(count, to=("bob",)))
        mails.mailer(numbered(count, to=("bob",), event=event))
    mails.mailer(numbered(5, to=("bob",), expires_at=NOW + 59.0))
    mails.mailer(numbered(6, to=("bob",)))
    [mail] = mails.at(60)
    assert str(mail.message["Subject"]).startswith("An approval waits")
    assert numbered(6).url in body(mail)


def test_ten_thousand_requests_are_bounded_in_memory() -> None:
    mails = Mails()
    for count in range(10_000):
        mails.mailer(numbered(count, to=("bob",)))
    [mail] = mails.at(0)
    assert str(mail.message["Subject"]) == "200 approvals wait for you"


@pytest.mark.parametrize(
    "address",
    [
        "bob@corp.example\r\nBcc: all@corp.example", "bob@corp.example\nX: y", "bob@a.example, all@a.example",
        "bob@a.example all@a.example",
        "<bob@corp.example>", "Bob <bob@corp.example>", "bob", "@", "bob@",
        "", "bob@corp.example;x", "bob\x00@corp.example", "group: bob@corp.example;",
    ],
)  # fmt: skip
def test_an_address_that_is_more_than_one_is_not_used(address: str) -> None:
    mails = Mails({"bob": address, "carol": "carol@corp.example"})
    mails.mailer(notice())
    assert [mail.to for mail in mails.at(0)] == ["carol@corp.example"]
    assert mails.counts == [("mail", "failed")]


def test_names_that_try_to_begin_a_header_or_a_line_do_not() -> None:
    mails = Mails()
    evil = "ledger/x\r\nBcc: all@corp.example\r\n\r\nClick https://evil.example\u202e"
    mails.mailer(notice(tool=evil, initiator=evil, to=("bob",)))
    [mail] = mails.at(0)
    raw = mail.message.as_bytes()
    assert mail.message["Bcc"] is None
    assert b"\nBcc:" not in raw
    assert "\u202e" not in body(mail)
    assert len(mail.message.keys()) == len(set(mail.message.keys()))
    assert not any(line.startswith("Click") for line in body(mail).splitlines())


@pytest.mark.parametrize("sender", ["", "nobody", "a@b\r\nBcc: c@d", "a b@c.example", "@c.example"])
def test_a_sender_that_is_no_address_is_refused(sender: str) -> None:
    assert str(sender_of(SENDER)) == SENDER
    with pytest.raises(ValueError, match="address"):
        sender_of(sender)


# --- through a real server


@pytest.fixture
def cert(tmp_path: Path) -> tuple[Path, Path]:
    return write_tls_files(tmp_path)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("correct horse\n")
    return path


def one_mail() -> Mail:
    mails = Mails()
    mails.mailer(notice(to=("bob",)))
    return mails.at(0)[0]


@pytest.fixture
async def secure(cert: tuple[Path, Path]) -> AsyncIterator[Mailbox]:
    async with smtp_server(cert, login=("broker", "correct horse")) as box:
        yield box


def server(box: Mailbox, cert: tuple[Path, Path], password: Path) -> MailServer:
    return MailServer(
        host="localhost", port=box.port, sender=SENDER, user="broker", password_file=password, ca_file=cert[0]
    )


async def test_a_mail_goes_over_starttls_with_a_login(
    secure: Mailbox, cert: tuple[Path, Path], password: Path
) -> None:
    await deliver(server(secure, cert, password), one_mail())
    [(recipients, mail)] = secure.got
    assert recipients == ["bob@corp.example"]
    assert notice().url in mail.get_content()
    assert secure.sessions == [True]


async def test_a_mail_goes_over_tls(cert: tuple[Path, Path], password: Path) -> None:
    async with smtp_server(cert, starttls=False, login=("broker", "correct horse")) as box:
        await deliver(replace(server(box, cert, password), security="tls"), one_mail())
    assert box.sessions == [True]


async def test_a_server_without_starttls_gets_neither_password_nor_mail(
    cert: tuple[Path, Path], password: Path
) -> None:
    async with smtp_server() as box:
        await deliver(MailServer(host="localhost", port=box.port, sender=SENDER, security="none"), one_mail())
        assert len(box.got) == 1
        with pytest.raises(NotDelivered) as refused:
            await deliver(server(box, cert, password), one_mail())
        assert len(box.got) == 1
    assert refused.value.why == "SMTPNotSupportedError"


async def test_a_server_with_another_certificate_gets_nothing(
    secure: Mailbox, cert: tuple[Path, Path], password: Path, tmp_path: Path
) -> None:
    await deliver(server(secure, cert, password), one_mail())
    (tmp_path / "other").mkdir()
    other = write_tls_files(tmp_path / "other")
    with pytest.raises(NotDelivered) as refused:
        await deliver(server(secure, other, password), one_mail())
    assert (refused.value.why, refused.value.again) == ("SSLCertVerificationError", False)
    assert len(secure.got) == 1


async def test_a_wrong_password_is_told_without_it_and_not_tried_again(
    secure: Mailbox, cert: tuple[Path, Path], password: Path
) -> None:
    await deliver(server(secure, cert, password), one_mail())
    password.write_text("wrong horse")
    with pytest.raises(NotDelivered) as refused:
        await deliver(server(secure, cert, password), one_mail())
    assert (refused.value.why, refused.value.again) == ("the mail server refused our login (535)", False)
    password.write_text("correct horse")  # read again at each try: a rotated password needs no restart
    await deliver(server(secure, cert, password), one_mail())
    assert len(secure.got) == 2


@pytest.mark.parametrize(("answer", "again"), [("550 no such user", False), ("451 try later", True)])
async def test_a_refused_recipient_is_told_without_its_address(answer: str, again: bool) -> None:
    async with smtp_server() as box:
        plainly = MailServer(host="127.0.0.1", port=box.port, sender=SENDER, security="none")
        await deliver(plainly, one_mail())
        box.refuse = answer
        with pytest.raises(NotDelivered) as refused:
            await deliver(plainly, one_mail())
    assert refused.value.again == again
    assert refused.value.why == f"the mail server refused a recipient ({answer[:3]})"


async def test_a_server_that_is_not_there_is_tried_again_and_holds_nobody_up() -> None:
    async with smtp_server() as box:
        port = box.port
    plainly = MailServer(host="127.0.0.1", port=port, sender=SENDER, security="none")
    trying = asyncio.create_task(deliver(plainly, one_mail()))
    with pytest.raises(NotDelivered) as refused:
        await asyncio.wait_for(trying, 20)
    assert refused.value.again
