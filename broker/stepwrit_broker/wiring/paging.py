"""The pages of the `tls` listener, made of the house."""

from __future__ import annotations

from stepwrit_broker.approvals.webauthn import WebAuthn
from stepwrit_broker.edge.http import Asgi
from stepwrit_broker.edge.pages.app import Pages
from stepwrit_broker.edge.pages.approvals import ApprovalPages
from stepwrit_broker.edge.pages.html import Templates
from stepwrit_broker.edge.pages.people import PeoplePages
from stepwrit_broker.edge.pages.routes import Desk
from stepwrit_broker.edge.pages.session import Sessions
from stepwrit_broker.flows.house import House
from stepwrit_broker.observe import Metrics


def paged(house: House, metrics: Metrics, rest: Asgi, *, session_s: float) -> Pages:
    """The pages in front of `rest`. session_s: how long a person stays signed in."""
    desk = Desk(
        house=house,
        passkeys=WebAuthn(house.issuer),
        sessions=Sessions(house, session_s),
        templates=Templates(),
    )
    routes = [*ApprovalPages(desk).routes(), *PeoplePages(desk, metrics).routes()]
    return Pages(desk, routes, metrics, rest)
