"""A person with a browser at the development issuer's authorization endpoint.

answer = await signed_in(going.address, "alice")
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
from tests.fakes.approver import ApprovalStage
from tests.fakes.stage import ISSUER

from stepwrit_broker.approvals.oidc import OidcSignIns, Provider
from stepwrit_broker.dev.oidc_code import DevClient

CLIENT = "approval-page"
REDIRECT = f"{ISSUER}/sign-in/oidc/callback"
STRONG = "phr"
_HIDDEN = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')


def idp_of(stage: ApprovalStage, http: httpx2.AsyncClient, **changes: Any) -> OidcSignIns:
    """The broker at the stage's issuer, where it is registered, and where time is the broker's."""
    given: dict[str, Any] = {
        "issuer": stage.issuer.url,
        "client_id": CLIENT,
        "redirect_uri": REDIRECT,
        "label": "Dev",
        "acr": (STRONG,),
    }
    stage.issuer.code.clients.setdefault(CLIENT, DevClient(redirect_uri=REDIRECT))
    on_time(stage)
    return OidcSignIns(Provider(**{**given, **changes}), http, stage.broker.clock, stage.broker.entropy)


def on_time(stage: ApprovalStage, **changes: Any) -> None:
    """The issuer's ID tokens are right, but for the changes; None takes a claim away."""

    def altered(claims: dict[str, Any]) -> dict[str, Any]:
        ahead = stage.now_ahead
        now = {"auth_age_s": -ahead, "life_s": 300 + ahead}
        return {name: value for name, value in {**claims, **now, **changes}.items() if value is not None}

    stage.issuer.code.altered = altered


async def signed_in(address: str, who: str, *, said: str = "yes") -> dict[str, str]:
    """What the issuer sends the browser back with."""
    async with httpx2.AsyncClient() as browser:
        page = await browser.get(address)
        assert page.status_code in (200, 303), page.text
        if page.status_code == 200:
            form = {**dict(_HIDDEN.findall(page.text)), "sub": who, "said": said}
            page = await browser.post(address.partition("?")[0], data=form)
    assert page.status_code == 303, page.text
    return dict(parse_qsl(urlsplit(page.headers["location"]).query))
