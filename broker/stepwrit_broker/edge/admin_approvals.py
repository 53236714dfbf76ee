"""`/v1/admin/approvals`: what operators see and do of the steps that wait for persons.

Names, digests, terms, and who is missing; never the text that persons read, nor an argument. Whoever should
read that is made one of those who may sign (`persons` in the registry, `@approvers` in policy).
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from stepwrit_broker.core.approval import ApprovalRecord, Signed, missing
from stepwrit_broker.core.persons import Persons
from stepwrit_broker.edge.operator import Reader, asking, operator_of
from stepwrit_broker.flows import approving
from stepwrit_broker.flows.house import House
from stepwrit_broker.ports_approval import Sought

Asking = Annotated[Reader, Depends(asking)]
MOST: Final = 1000
REQUESTER: Final = "the requester"


class CancelBody(BaseModel):
    """Why an approval is cancelled."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(min_length=1, max_length=approving.REASON_MAX)


def approvals_routes(router: APIRouter, house: House) -> None:
    """Add them to the admin face."""

    @router.get("/approvals")
    async def listed(
        who: Asking,
        state: str = "asked",
        txn: str | None = None,
        tool: str | None = None,
        initiator: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST)] = 200,
    ) -> list[dict[str, object]]:
        """Newest first. state: of the approval, or `all`."""
        sought = Sought(
            tenant=who.tenant,
            state=None if state == "all" else state,
            txn=txn,
            tool=tool,
            initiator=initiator,
            most=limit,
        )
        return [shown(house, each) for each in await house.approvals.approvals(sought)]

    @router.get("/approvals/{name}")
    async def one(name: str, who: Asking) -> dict[str, object]:
        """One of them, with the digest that is signed and what it is made of."""
        record = await approving.known(house, name, who.tenant)
        return {**shown(house, record), "signs": record.asked.signed}

    @router.post("/approvals/{name}/remind")
    async def remind(name: str, who: Asking) -> dict[str, object]:
        """Tell its approvers again."""
        operator_of(who)
        return shown(house, await approving.remind(house, name, who.tenant))

    @router.post("/approvals/{name}/cancel")
    async def cancel(name: str, body: CancelBody, who: Asking) -> dict[str, object]:
        """End it and its step."""
        by = operator_of(who).name
        return shown(house, await approving.cancel(house, by, name, body.reason, who.tenant))


def shown(house: House, record: ApprovalRecord) -> dict[str, object]:
    """One approval as operators see it."""
    asked, step, who = record.asked, record.asked.step, record.asked.step.intent.requester
    persons = house.settings.now_in_force().registry.persons
    is_open = record.state == "asked"
    return {
        "id": asked.id,
        "state": record.state,
        "tool": asked.action.tool,
        "impact": asked.action.impact,
        "origin": step.origin,
        "initiator": step.initiator,
        "performer": asked.performer,
        "requester": None if who is None else who.opaque,
        "owner": step.intent.owner,
        "tenant": step.tenant,
        "txn": step.txn,
        "step": step.id,
        "ref": step.ref,
        "url": house.approval_url(asked.id),
        "policies": list(asked.policies),
        "versions": dict(asked.versions),
        "terms": [each.as_json for each in asked.terms],
        "digest": asked.digest,
        "asked_at": asked.asked_at,
        "expires_at": asked.expires_at,
        "missing": missing(asked, record.signed, persons) if is_open else 0,
        "may_still_sign": _may_still_sign(record, persons) if is_open else [],
        "signed": [_signature(house, persons, each) for each in record.signed],
        "ended_at": record.ended_at or None,
        "by": record.by or None,
        "reason": record.reason or None,
    }


def _may_still_sign(record: ApprovalRecord, persons: Persons) -> list[str]:
    """Names of the operator's list, and the requester, whose signatures are not there."""
    asked, who = record.asked, record.asked.step.intent.requester
    there = {persons.name(each.by) for each in record.signed}
    names = {
        name for terms in asked.terms for name in terms.persons if persons.serves(name, asked.step.tenant)
    }
    own = (
        [REQUESTER]
        if who is not None
        and any(terms.requester for terms in asked.terms)
        and not any((each.by.issuer, each.by.subject) == (who.issuer, who.subject) for each in record.signed)
        else []
    )
    return [*own, *sorted(names - there)]


def _signature(house: House, persons: Persons, signed: Signed) -> dict[str, object]:
    return {
        "by": house.opaque(signed.by),
        "person": persons.name(signed.by),
        "method": signed.method,
        "authenticator": signed.authenticator,
        "at": signed.at,
    }
