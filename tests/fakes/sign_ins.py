"""The SignIns port without an identity provider: whoever is named signs in, as the test says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tests.flows.rig import IDP, Rig

from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.ports_approval import Leaving

CODE = "code"


class FakeSignIns:
    """With the rig's FakePeople: an ID token is a name, and its claims are put there as it is redeemed."""

    issuer, client_id, label = IDP, "pages", "Example ID"

    def __init__(self, rig: Rig, *acr: str) -> None:
        self.acr, self._rig = frozenset(acr), rig
        self.who = "alice"
        self.claims: dict[str, Any] = {}
        self._count = itertools.count()

    async def address(self, leaving: Leaving) -> str:
        asked = {"state": leaving.state, "max_age": leaving.max_age_s}
        return f"https://idp.example/authorize?{urlencode(asked)}"

    async def redeem(self, answer: Mapping[str, str], leaving: Leaving) -> str:
        if answer.get("code") != CODE:
            raise Unproven("invalid_proof", "the identity provider did not take the code", rule="code")
        acr = min(self.acr, default=None) if leaving.step_up else None
        good: dict[str, Any] = {
            "subject": self.who, "clients": (self.client_id,), "nonce": leaving.nonce, "acr": acr,
            "auth_time": self._rig.clock.time,
        }  # fmt: skip
        self._rig.people.claims = {**good, **self.claims}
        return f"id-token-{next(self._count)}"
