"""Signing in, and signing, at an identity provider: off to it and back again.

What belongs to a visit is in a cookie of its own, sealed, named by the visit's state. It is `Lax`: the way
back is a link from elsewhere. No link begins a signature: that takes a form of our page, in the person's
session.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

import structlog

from stepwrit_broker.core.errors import Malformed, Problem
from stepwrit_broker.edge.http import Request
from stepwrit_broker.edge.pages.html import Html, to
from stepwrit_broker.edge.pages.routes import APPROVAL, HOME, Asked, Desk, Route, Way, route, safe_next
from stepwrit_broker.edge.pages.session import Header
from stepwrit_broker.flows import approving, signing_in
from stepwrit_broker.flows.signing_in import LIFE_S, Going
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports_approval import SignIns

_log = structlog.get_logger("stepwrit.pages")
PATH: Final = "/sign-in/oidc"
VISIT: Final = "__Host-stepwrit-visit-"
_NAME_CHARS: Final = 16
_FIELDS_MAX: Final = 16
_ONCE: Final = frozenset({"state", "code", "iss", "error"})


class OidcPages:
    """Both ways out, and the one way back."""

    def __init__(self, desk: Desk, idp: SignIns, metrics: Metrics) -> None:
        self._desk, self._idp, self._metrics = desk, idp, metrics

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            route("GET", PATH, self.leave, needs_session=False, is_door=True),
            route("GET", f"{PATH}/callback", self.back, needs_session=False, is_door=True),
            route("POST", f"{HOME}/{APPROVAL}/oidc", self.sign),
        ]

    async def leave(self, asked: Asked) -> Html:
        """Off to sign in."""
        goes_to = safe_next(asked.query("next"))
        going = await signing_in.begin_sign_in(self._desk.house, self._idp, goes_to)
        return to(going.address).having(_kept(going))

    async def sign(self, asked: Asked) -> Html:
        """Off to sign in anew, for this one approval: by a page, since a form may lead nowhere but here."""
        house, who = self._desk.house, asked.who.who
        try:
            going = await signing_in.begin_signing(house, self._idp, who, asked.id, f"{HOME}/{asked.id}")
        except Problem as problem:
            await house.refusals.note_person(problem, house.opaque(who), "approve", asked.id)
            raise
        text = (await approving.view(house, who, asked.id)).text or ("",)
        page = self._desk.page(
            "leaving.html", asked, address=going.address, label=self._idp.label, headline=text[0]
        )
        return page.having(_kept(going))

    async def back(self, asked: Asked) -> Html:
        """Back again: signed in, or signed."""
        house, answer = self._desk.house, _answer(asked.request)
        name = VISIT + answer.get("state", "")[:_NAME_CHARS]
        try:
            came = await signing_in.finish(house, self._idp, _sent(asked.request, name), answer)
        except Problem as problem:
            self._metrics.unattested(f"sign-in {problem.code}")
            raise
        page = to(came.goes_to).having(_cookie(name, "", 0))
        if came.record is not None:
            return page
        _log.info("signed in", person=house.opaque(came.who), how="oidc", authenticator=None)
        return page.having(self._desk.sessions.signed_in(came.who, "oidc", house.clock.now()))


def ways(idp: SignIns | None) -> tuple[tuple[Way, ...], tuple[Way, ...]]:
    """What is offered for signing in, and for signing."""
    if idp is None:
        return (), ()
    return (Way(label=idp.label, path=PATH),), ((Way(label=idp.label, path="/oidc"),) if idp.acr else ())


def _kept(going: Going) -> Header:
    return _cookie(VISIT + going.state[:_NAME_CHARS], going.sealed, int(LIFE_S))


def _cookie(name: str, value: str, life: int) -> Header:
    text = f"{name}={value}; Max-Age={life}; Path=/; Secure; HttpOnly; SameSite=Lax"
    return b"set-cookie", text.encode()


def _sent(request: Request, name: str) -> str | None:
    """The one cookie of that name; of two neither counts."""
    pairs = [each.strip().partition("=") for each in (request.header(b"cookie") or "").split(";")]
    found = [value for known, _, value in pairs if known == name]
    return found[0] if len(found) == 1 else None


def _answer(request: Request) -> dict[str, str]:
    """What the redirect says; what decides not twice (RFC 6749 section 3.1). Raises Malformed."""
    raw: bytes = request.scope.get("query_string", b"")
    try:
        pairs = parse_qsl(raw.decode("ascii"), max_num_fields=_FIELDS_MAX, errors="strict")
    except ValueError as bad:
        raise Malformed("invalid_request", "the address has no such query") from bad
    names = [name for name, _ in pairs if name in _ONCE]
    if len(names) != len(set(names)):
        raise Malformed("invalid_request", "a parameter is there twice")
    return {name: value for name, value in pairs if name in _ONCE}
