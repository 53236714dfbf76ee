"""What a page is made of: who asks, what for, and who answers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.plain import plain
from stepwrit_broker.edge.http import Request
from stepwrit_broker.edge.pages.html import Html, Templates
from stepwrit_broker.edge.pages.session import Session, Sessions
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports_approval import Passkeys

APPROVAL: Final = r"(?P<id>apr_[0-9A-Za-z]{10,40})"
_NEXT: Final = re.compile(rf"/(?:approvals(?:/{APPROVAL})?|authenticators)\Z")
HOME: Final = "/approvals"
_FIELDS_MAX: Final = 8
_HERE: Final = {
    "approvals.html": "approvals",
    "approval.html": "approvals",
    "authenticators.html": "authenticators",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of a person. id: what the path names. session: None where none is needed and none came."""

    request: Request
    id: str
    session: Session | None

    @property
    def who(self) -> Session:
        """The session that a route with `needs_session` always has."""
        if self.session is None:
            raise RuntimeError("a route that needs a session was reached without one")
        return self.session

    def field(self, name: str) -> str:
        """A form's field, empty where it is missing."""
        return self.request.form().get(name, "")

    def query(self, name: str) -> str:
        """A query's parameter, empty where it is missing. Raises Malformed."""
        raw: bytes = self.request.scope.get("query_string", b"")
        try:
            found = dict(parse_qsl(raw.decode("ascii"), max_num_fields=_FIELDS_MAX, errors="strict"))
        except ValueError as bad:
            raise Malformed("invalid_request", "the address has no such query") from bad
        return found.get(name, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A page or a form. A POST is our own page's; with `needs_session` it carries the session's token.

    is_door: it proves somebody, and is limited more than pages are.
    """

    method: Literal["GET", "POST"]
    path: re.Pattern[str]
    answer: Callable[[Asked], Awaitable[Html]]
    needs_session: bool = True
    is_door: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Another way than a passkey, offered where persons sign in, or sign.

    label: after "Sign in with". path: gets `?next=` on the sign-in page, and stands below `/approvals/{id}`
    on an approval's.
    """

    label: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What all pages work with. sign_in, sign: ways beside the passkey."""

    house: House
    passkeys: Passkeys
    sessions: Sessions
    templates: Templates
    sign_in: tuple[Way, ...] = ()
    sign: tuple[Way, ...] = ()

    def page(self, name: str, asked: Asked, *, status: int = 200, **given: object) -> Html:
        """A page with what every page shows: who is signed in, and their forms' token."""
        session = asked.session
        return self.templates.page(
            name,
            status=status,
            me=None if session is None else self.name(session),
            csrf="" if session is None else self.sessions.token(session),
            here=_HERE.get(name),
            **given,
        )

    def name(self, session: Session) -> str:
        """A person's name in the operator's list, or as their identity provider knows them."""
        known = self.house.settings.now_in_force().registry.persons.name(session.who)
        return plain(known or session.who.subject)


def route(
    method: Literal["GET", "POST"],
    path: str,
    answer: Callable[[Asked], Awaitable[Html]],
    *,
    needs_session: bool = True,
    is_door: bool = False,
) -> Route:
    """A route of a path pattern; `APPROVAL` in it becomes `Asked.id`."""
    return Route(
        method=method,
        path=re.compile(rf"{path}\Z"),
        answer=answer,
        needs_session=needs_session,
        is_door=is_door,
    )


def safe_next(path: str) -> str:
    """Where to go after signing in: a page of ours, whatever the address said."""
    return path if _NEXT.match(path) else HOME
