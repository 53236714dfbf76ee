"""The brake: revoke, freeze and unfreeze write one mark (or lift one), durable before they answer."""

from __future__ import annotations

from dataclasses import dataclass

from stepwrit.wire import MarkRequest
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Problem, Refused
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.marks import Mark, parse_target
from stepwrit_broker.core.registry import Entry, Registry
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.flows.house import House, operation
from stepwrit_broker.ports import Evidence, MarkCommand, Operation

REASON_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Who pulls the brake: an X.509-SVID of role `operator`, or a local uid seen on the admin socket."""

    name: str
    tenant: str | None = None


async def mark(house: House, operator: Operator, request: MarkRequest, op_id: str, digest: str) -> Mark:
    """In force everywhere once this returns. Raises Malformed, Refused(`not_found`), Unavailable."""
    target = parse_target(request.target)
    await _check_tenant(house, operator, target)
    await _check_known(house, target)
    _check_reason(request)
    now = house.clock.now()
    wanted = Mark(
        target=target,
        verb="revoke" if request.verb == "revoke" else "freeze",
        reason=request.reason,
        by=operator.name,
        at=now,
        ref=house.ref(),
    )
    op = Operation(caller=operator.name, key="", verb=request.verb, id=op_id, digest=digest)
    command = MarkCommand(op=op, mark=wanted, lift=request.verb == "unfreeze", evidence=Evidence(), now=now)
    return await house.store.mark(command)


async def _check_known(house: House, target: str) -> None:
    """A mark on a mistyped id would brake nothing and look as if it did."""
    kind, _, name = target.partition(":")
    known = {
        "txn": house.store.knows,
        "step": house.store.step,
        "grant": house.store.grant,
    }.get(kind)
    if known is not None and not await known(name):
        raise Refused("not_found", f"there is no such {kind}, or it ended long ago")


def _check_reason(request: MarkRequest) -> None:
    if not request.reason.strip() or len(request.reason) > REASON_MAX:
        raise Malformed("invalid_request", f"reason: 1 to {REASON_MAX} characters")


def sees_all(house: House, operator: Operator) -> bool:
    """Whether this operator may change what holds for all tenants: the local one, or where there is one."""
    if operator.tenant is None:
        return True
    return {entry.tenant for entry in house.settings.now_in_force().registry.entries} <= {operator.tenant}


async def _check_tenant(house: House, operator: Operator, target: str) -> None:
    """A tenant's operator marks what is the tenant's; unknown and not-yours look alike."""
    if operator.tenant is None:
        return
    kind, _, name = target.partition(":")
    if await tenant_of(house, kind, name) != operator.tenant and not sees_all(house, operator):
        raise Refused(
            "not_found",
            "no such target in your tenant",
            who_can_change_it="the local operator (admin socket)",
        )


async def tenant_of(house: House, kind: str, name: str) -> str | None:
    """Whose a mark's target is; None for what is nobody's alone."""
    if kind == "tenant":
        return name
    if kind == "step":
        record = await house.store.step(name)
        return None if record is None else record.step.tenant
    if kind == "grant":
        grant = await house.store.grant(name)
        return None if grant is None else grant.grant.tenant
    entry = _entry_of(house.settings.now_in_force().registry, kind, name)
    return None if entry is None else entry.tenant


def _entry_of(registry: Registry, kind: str, name: str) -> Entry | None:
    match kind:
        case "workload":
            return registry.entry_for(SpiffeId(name))
        case "tool":
            return registry.server(name.partition("/")[0])
        case "server":
            return registry.server(name)
        case "resource":
            return registry.resource(name)
        case _:
            return None


async def revoke_own(house: House, caller: Caller, request: MarkRequest, op_id: str, digest: str) -> Mark:
    """A workload may revoke a step that it initiated or performs; its intent's root ends the transaction.

    Raises Malformed, Refused(`wrong_workload`, `not_found`), Unavailable.
    """
    try:
        await _check_own(house, caller, request)
        op = operation(caller, "revoke", op_id, digest)
        now = house.clock.now()
        wanted = Mark(
            target=request.target,
            verb="revoke",
            reason=request.reason,
            by=caller.workload.id,
            at=now,
            ref=house.ref(),
        )
        return await house.store.mark(
            MarkCommand(op=op, mark=wanted, lift=False, evidence=Evidence(), now=now)
        )
    except Problem as problem:
        await house.refusals.note(problem, caller, "revoke", {"target": request.target[:300]})
        raise


async def _check_own(house: House, caller: Caller, request: MarkRequest) -> None:
    kind, _, name = parse_target(request.target).partition(":")
    _check_reason(request)
    if request.verb != "revoke" or kind != "step" or not is_id("stp", name):
        raise Refused("wrong_workload", "a workload may only revoke a step; the rest is the operator's")
    record = await house.store.step(name)
    mine = (record.step.initiator, record.life.performer) if record is not None else ()
    if caller.workload.id not in mine:
        raise Refused("not_found", "no such step")
