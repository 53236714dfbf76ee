"""`/v1/admin/authenticators`: with what persons sign, whom to invite, and the operator's word on it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.edge.admin_keys import told
from stepwrit_broker.edge.operator import Reader, asking, check_sees_all, ruler
from stepwrit_broker.flows import detached, enrolling
from stepwrit_broker.flows.house import House

Asking = Annotated[Reader, Depends(asking)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InviteBody(_Strict):
    """Whom to invite: a person of the registry, or one identity."""

    person: str | None = Field(default=None, max_length=63, description="A name of the registry's `persons`")
    issuer: str | None = Field(default=None, max_length=2000)
    subject: str | None = Field(default=None, max_length=255)
    reason: str = Field(min_length=1, max_length=500)


class DecideBody(_Strict):
    """The operator's word."""

    reason: str = Field(min_length=1, max_length=500)
    fingerprint: str | None = Field(
        default=None, max_length=100, description="To approve: as the person read it to you"
    )


def people_routes(router: APIRouter, house: House) -> None:
    """The routes; before any that takes every name in their place."""

    @router.get("/authenticators")
    async def authenticators(who: Asking) -> list[dict[str, object]]:
        """All of them, oldest first, with the fingerprints that persons read to you."""
        check_sees_all(house, who)
        return [_named(house, each) for each in await enrolling.everybodys(house)]

    @router.post("/authenticators/invitations")
    async def invite(body: InviteBody, who: Asking) -> dict[str, object]:
        """A link for one person, good once and for 15 minutes: whoever opens it may propose a passkey."""
        by = ruler(house, who)
        made = await enrolling.invite(house, by.name, _owner(house, body), body.reason)
        owner = made.invitation.owner
        return {
            "invitation": made.invitation.id,
            "person": _name(house, owner),
            "issuer": owner.issuer,
            "subject": owner.subject,
            "url": made.url,
            "expires_at": made.invitation.until,
        }

    @router.post("/authenticators/{name}/{verb}")
    async def decide(
        name: str, verb: Literal["approve", "retire"], body: DecideBody, who: Asking
    ) -> dict[str, object]:
        """Approve one that was proposed, with the fingerprint that the person read to you; or retire one."""
        by = ruler(house, who)
        made = await enrolling.decide(house, by.name, name, verb, body.reason, body.fingerprint)
        return _named(house, made)


def _owner(house: House, body: InviteBody) -> Identity:
    if body.person is not None and body.issuer is None and body.subject is None:
        return detached.owner_of(house.settings.now_in_force().registry.persons, body.person)
    if body.person is None and body.issuer and body.subject:
        return Identity(body.issuer, body.subject)
    raise Malformed("invalid_request", "say who is invited: person, or issuer and subject")


def _name(house: House, owner: Identity) -> str | None:
    return house.settings.now_in_force().registry.persons.name(owner)


def _named(house: House, each: Authenticator) -> dict[str, object]:
    return {**told(each), "person": _name(house, each.owner)}
