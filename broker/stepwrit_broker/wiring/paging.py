"""The pages of the `tls` listener, made of the house."""

from __future__ import annotations

from stepwrit_broker.approvals.webauthn import WebAuthn
from stepwrit_broker.edge.http import Asgi
from stepwrit_broker.edge.pages.app import Pages
from stepwrit_broker.edge.pages.approvals import ApprovalPages
from stepwrit_broker.edge.pages.html import Templates
from stepwrit_broker.edge.pages.oidc import OidcPages, ways
from stepwrit_broker.edge.pages.people import PeoplePages
from stepwrit_broker.edge.pages.routes import Desk
from stepwrit_broker.edge.pages.session import Sessions
from stepwrit_broker.flows.house import House
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports_approval import SignIns


def paged(
    house: House, metrics: Metrics, rest: Asgi, *, session_s: float, idp: SignIns | None = None
) -> Pages:
    """The pages in front of `rest`. session_s: how long a person stays signed in. idp: where they may."""
    sign_in, sign = ways(idp)
    desk = Desk(
        house=house,
        passkeys=WebAuthn(house.issuer),
        sessions=Sessions(house, session_s),
        templates=Templates(),
        sign_in=sign_in,
        sign=sign,
    )
    elsewhere = [] if idp is None else OidcPages(desk, idp, metrics).routes()
    routes = [*ApprovalPages(desk).routes(), *PeoplePages(desk, metrics).routes(), *elsewhere]
    return Pages(desk, routes, metrics, rest)
