"""`POST /v1/admin/authenticators`: an operator registers a key that they have from the person themself."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.edge.operator import Reader, asking, ruler
from stepwrit_broker.flows import detached
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.revoke import Operator
from stepwrit_broker.ports_approval import Keys

Asking = Annotated[Reader, Depends(asking)]


class KeyBody(BaseModel):
    """A public key and whose it is: a person of the registry, or one identity."""

    model_config = ConfigDict(extra="forbid")
    person: str | None = Field(default=None, max_length=63, description="A name of the registry's `persons`")
    issuer: str | None = Field(default=None, max_length=2000)
    subject: str | None = Field(default=None, max_length=255)
    key: str = Field(max_length=4096, description="Ed25519 or P-256, as PEM or an OpenSSH line")
    label: str = Field(default="", max_length=80)
    reason: str = Field(min_length=1, max_length=500)


def key_routes(router: APIRouter, house: House, keys: Keys) -> None:
    """The route; before any that takes every name in its place."""

    @router.post("/authenticators")
    async def add_key(body: KeyBody, who: Asking) -> dict[str, object]:
        """Register an approver's public key, which counts once this answers."""
        return await add(house, keys, ruler(house, who), body)


async def add(house: House, keys: Keys, operator: Operator, body: KeyBody) -> dict[str, object]:
    """Propose and approve it. Raises Malformed, Refused(`not_registered`), Conflict(`wrong_state`)."""
    new = detached.NewKey(owner=_owner(house, body), text=body.key, label=body.label, reason=body.reason)
    return told(await detached.add_key(house, keys, operator, new))


def told(each: Authenticator) -> dict[str, object]:
    """An authenticator as operators see it."""
    return {
        "id": each.id,
        "kind": each.kind,
        "state": each.state,
        "label": each.label,
        "fingerprint": each.fingerprint,
        "issuer": each.owner.issuer,
        "subject": each.owner.subject,
        "proposed_at": each.proposed_at,
        "decided_by": each.decided_by,
        "decided_at": each.decided_at,
    }


def _owner(house: House, body: KeyBody) -> Identity:
    named, pair = body.person is not None, body.issuer is not None and body.subject is not None
    if named == pair or (named and (body.issuer or body.subject)):
        raise Malformed("invalid_request", "say whose key it is: person, or issuer and subject")
    if body.person is not None:
        persons = house.settings.now_in_force().registry.persons
        return detached.owner_of(persons, body.person)
    return Identity(body.issuer or "", body.subject or "")
