"""Signing in and out, a person's own authenticators, and the invitation to propose a passkey."""

from __future__ import annotations

import json

import structlog

from stepwrit.digest import DigestError, b64u, unb64u
from stepwrit_broker.core.errors import Problem, Unproven
from stepwrit_broker.edge.pages.html import Html, to
from stepwrit_broker.edge.pages.listed import owned
from stepwrit_broker.edge.pages.routes import Asked, Desk, Route, route, safe_next
from stepwrit_broker.flows import enrolling, passkeys
from stepwrit_broker.flows.attempts import ATTEMPT_S
from stepwrit_broker.flows.enrolling import LABEL_MAX
from stepwrit_broker.observe import Metrics

_log = structlog.get_logger("stepwrit.pages")


class PeoplePages:
    """Who somebody is, and with what they show it."""

    def __init__(self, desk: Desk, metrics: Metrics) -> None:
        self._desk, self._metrics = desk, metrics

    def routes(self) -> list[Route]:
        """Where they are."""
        mine = "/authenticators"
        return [
            route("GET", "/sign-in", self.ask, needs_session=False),
            route("POST", "/sign-in", self.sign_in, needs_session=False, is_door=True),
            route("POST", "/sign-out", self.sign_out, needs_session=False),
            route("GET", mine, self.mine),
            route("POST", mine, self.propose, needs_session=False, is_door=True),
            route("GET", f"{mine}/new", self.invited, needs_session=False),
            route("POST", f"{mine}/new", self.open, needs_session=False, is_door=True),
        ]

    async def ask(self, asked: Asked) -> Html:
        """Who are you?"""
        goes_to = safe_next(asked.query("next"))
        if asked.session is not None:
            return to(goes_to)
        nonce, options = passkeys.begin_sign_in(self._desk.house, self._desk.passkeys)
        return self._desk.page(
            "sign_in.html",
            asked,
            nonce=b64u(nonce),
            options=json.dumps(options),
            good_for=int(ATTEMPT_S) - 1,
            next=goes_to,
            ways=self._desk.sign_in,
        )

    async def sign_in(self, asked: Asked) -> Html:
        """Begin a session."""
        house = self._desk.house
        try:
            known = await passkeys.sign_in(
                house, self._desk.passkeys, _nonce(asked), asked.field("credential")
            )
        except Problem as problem:
            self._metrics.unattested(f"sign-in {problem.code}")
            raise
        _log.info("signed in", person=house.opaque(known.owner), how="passkey", authenticator=known.id)
        cookie = self._desk.sessions.signed_in(
            known.owner, "passkey", house.clock.now(), authenticator=known.id
        )
        return to(safe_next(asked.field("next"))).having(cookie)

    async def sign_out(self, asked: Asked) -> Html:  # noqa: ARG002  every page's shape
        """End the session in this browser."""
        return to("/sign-in").having(self._desk.sessions.signed_out())

    async def mine(self, asked: Asked) -> Html:
        """What this person signs with."""
        house = self._desk.house
        found = owned(await passkeys.of_person(house, asked.who.who), house.clock.now())
        return self._desk.page("authenticators.html", asked, found=found)

    async def invited(self, asked: Asked) -> Html:
        """Where an invitation leads: a script hands on what stands behind the `#`."""
        return self._desk.page("invited.html", asked)

    async def open(self, asked: Asked) -> Html:
        """What an invitation is for, and the button that makes a passkey."""
        sealed = asked.field("invitation")
        opened = await enrolling.open_invitation(self._desk.house, self._desk.passkeys, sealed)
        return self._desk.page(
            "propose.html",
            asked,
            invitation=sealed,
            person=opened.person,
            issuer=opened.invitation.owner.issuer,
            nonce=b64u(opened.nonce),
            options=json.dumps(opened.options),
            good_for=int(ATTEMPT_S) - 1,
            label_max=LABEL_MAX,
        )

    async def propose(self, asked: Asked) -> Html:
        """A new passkey, which counts for nothing until an operator approves it."""
        made = await enrolling.propose(
            self._desk.house,
            self._desk.passkeys,
            asked.field("invitation"),
            _nonce(asked),
            asked.field("credential"),
            asked.field("label"),
        )
        return self._desk.page("proposed.html", asked, fingerprint=made.fingerprint)


def _nonce(asked: Asked) -> bytes:
    try:
        return unb64u(asked.field("nonce"))
    except DigestError:
        raise Unproven("invalid_proof", "this attempt was not begun here", rule="nonce") from None
