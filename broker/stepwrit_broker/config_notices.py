"""[mail] and [[webhook]]: who is told of approvals, and how."""

from __future__ import annotations

import email.utils
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from stepwrit_broker.config_reader import Means

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
NONE: Final = Path()
Event = Literal["asked", "reminded", "signed", "given", "denied", "cancelled", "expired"]
Security = Literal["starttls", "tls", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MailTable:
    """The mail server through which persons are told of approvals that wait for them; off while `host` is
    empty. Mails go to the `email` of a person in the registry, with the page's address and no argument.
    """

    host: Annotated[str, Means(text="The submission server. Empty: no mail is sent.")] = ""
    port: Annotated[int, Means(text="Its port; 465 for `tls`.", least=1)] = 587
    security: Annotated[
        Security,
        Means(text="`starttls` (refused where it is not offered), `tls`, or `none` for a loopback host."),
    ] = "starttls"
    sender: Annotated[str, Means(text="Who the mails are from: `a@b` or `Name <a@b>`. Needed.")] = ""
    user: Annotated[str, Means(text="The login, where one is needed.")] = ""
    password_file: Annotated[Path, Means(text="A file with the login's password, and nothing else.")] = NONE
    ca_file: Annotated[Path, Means(text="A private CA, PEM. Empty: the CAs of this system.")] = NONE
    every_s: Annotated[
        float,
        Means(
            text="Each person gets one mail in this time at most; what comes in between is told together.",
            unit="seconds",
            least=1,
        ),
    ] = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSource:
    """A system that is told of approvals by a signed POST (Standard Webhooks): names and the page's address,
    no argument. Only what stands here is called.
    """

    name: Annotated[str, Means(text="What metrics and /healthz call it.", example="chat")]
    url: Annotated[
        str,
        Means(
            text="https, or http to a loopback host. Redirects are not followed.",
            example="https://hooks.example/stepwrit",
        ),
    ]
    secret_file: Annotated[
        Path,
        Means(
            text="A file with `whsec_` and the base64 of 24 to 64 random bytes: the key of the signature.",
            example="/etc/stepwrit/chat.secret",
        ),
    ]
    events: Annotated[tuple[Event, ...], Means(text="Of these only. Empty: of all.")] = ()
    initiators: Annotated[
        tuple[str, ...],
        Means(text="What these SPIFFE IDs ask for only; `spiffe://…/*` for all below. Empty: of all."),
    ] = ()
    ca_file: Annotated[Path, Means(text="A private CA, PEM. Empty: the CAs of this system.")] = NONE


def notice_problems(mail: MailTable, hooks: tuple[WebhookSource, ...]) -> Iterator[str]:
    """Every problem of meaning, one a line."""
    if mail.host:
        yield from (f"mail.{problem}" for problem in _mail(mail))
    for at, each in enumerate(hooks):
        yield from (f"webhook[{at}].{problem}" for problem in _hook(each))
    if len({each.name for each in hooks}) != len(hooks):
        yield "webhook: uses a name twice"


def _mail(mail: MailTable) -> Iterator[str]:
    if mail.security == "none" and mail.host not in LOOPBACK:
        yield "security: none is for a loopback host; the link in a mail must not be read on its way"
    address = email.utils.parseaddr(mail.sender)[1]
    if "@" not in address or not mail.sender.isprintable():
        yield "sender: must be a mail address, or Name <address>"
    if bool(mail.user) != (mail.password_file != NONE):
        yield "user: needs password_file, and password_file needs user"
    if mail.port > 65_535:
        yield "port: must be at most 65535"


def _hook(hook: WebhookSource) -> Iterator[str]:
    if not hook.name or not all(each.isascii() and (each.isalnum() or each in "-_") for each in hook.name):
        yield "name: must be letters, digits, - and _"
    if not _is_url(hook.url):
        yield "url: must be an https URL (http only for loopback), without user, fragment or white space"


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, named = parts.hostname, parts.port != 0
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and " " not in url and "#" not in url
    safe = parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)
    return bool(host) and named and plain and safe and "@" not in parts.netloc
