"""`/approvals`: what waits for a person, one of them, and what the person says to it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from stepwrit.digest import DigestError, b64u, unb64u
from stepwrit_broker.core.errors import Problem, Unproven
from stepwrit_broker.edge.pages.html import Html, to
from stepwrit_broker.edge.pages.listed import grouped
from stepwrit_broker.edge.pages.routes import APPROVAL, HOME, Asked, Desk, Route, route
from stepwrit_broker.edge.pages.shown import Shown, shown
from stepwrit_broker.flows import approving, passkeys
from stepwrit_broker.flows.approving import REASON_MAX, View

FREEZE: Final = "freeze"
HINTED_MAX: Final = 50  # whose arguments are told in the list


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """For the passkey's form. good_for: seconds."""

    nonce: str = field(repr=False)
    options: str = field(repr=False)
    good_for: int


class ApprovalPages:
    """The four of them."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            route("GET", HOME, self.waiting),
            route("GET", f"{HOME}/{APPROVAL}", self.one),
            route("POST", f"{HOME}/{APPROVAL}/approve", self.approve),
            route("POST", f"{HOME}/{APPROVAL}/deny", self.deny),
        ]

    async def waiting(self, asked: Asked) -> Html:
        """Everything that waits for this person."""
        house = self._desk.house
        found = await approving.waiting(house, asked.who.who)
        hinted = found[:HINTED_MAX]
        texts = {each.asked.id: await approving.text_of(house, each) or () for each in hinted}
        groups, many = grouped(found, texts, house.store.marks(), house.clock.now())
        return self._desk.page(
            "approvals.html", asked, groups=groups, many=many, count=sum(len(g.lines) for g in groups)
        )

    async def one(self, asked: Asked) -> Html:
        """One approval, whatever became of it."""
        return await self._page(asked, await approving.view(self._desk.house, asked.who.who, asked.id))

    async def _page(self, asked: Asked, view: View) -> Html:
        house, who = self._desk.house, asked.who.who
        persons, now = house.settings.now_in_force().registry.persons, house.clock.now()
        told = shown(view, persons, who, house.store.marks(), now)
        prompt = await self._prompt(asked, told)
        return self._desk.page(
            "approval.html", asked, a=told, ways=self._desk.sign, reason_max=REASON_MAX, prompt=prompt
        )

    async def _prompt(self, asked: Asked, told: Shown) -> Prompt | None:
        """What the browser is asked when this person presses the button; None where they cannot."""
        house, who = self._desk.house, asked.who.who
        if not told.can_sign or not await passkeys.usable(house, who):
            return None
        attempt, options = await passkeys.begin_approval(house, self._desk.passkeys, who, asked.id)
        good_for = int(attempt.until - house.clock.now())
        return Prompt(nonce=b64u(attempt.nonce), options=json.dumps(options), good_for=good_for)

    async def approve(self, asked: Asked) -> Html:
        """Sign it."""
        await self._noted(asked, "approve", self._approve)
        return to(f"{HOME}/{asked.id}")

    async def _approve(self, asked: Asked) -> None:
        nonce, said = _nonce(asked), asked.field("credential")
        await passkeys.approve(self._desk.house, self._desk.passkeys, asked.who.who, asked.id, nonce, said)

    async def deny(self, asked: Asked) -> Html:
        """Refuse it; with `freeze`, stop its whole transaction."""
        await self._noted(asked, "deny", self._deny)
        return to(f"{HOME}/{asked.id}")

    async def _deny(self, asked: Asked) -> None:
        reason = asked.field("reason").strip()[:REASON_MAX]
        freeze = asked.field("then") == FREEZE
        await approving.deny(self._desk.house, asked.who.who, asked.id, reason, freeze=freeze)

    async def _noted(self, asked: Asked, verb: str, doing: Callable[[Asked], Awaitable[None]]) -> None:
        """What a person was refused is on record."""
        house = self._desk.house
        try:
            await doing(asked)
        except Problem as problem:
            await house.refusals.note_person(problem, house.opaque(asked.who.who), verb, asked.id)
            raise


def _nonce(asked: Asked) -> bytes:
    try:
        return unb64u(asked.field("nonce"))
    except DigestError:
        raise Unproven("invalid_proof", "this attempt was not begun here", rule="nonce") from None
