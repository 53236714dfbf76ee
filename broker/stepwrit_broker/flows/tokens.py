"""What may be asked of a token by whom it concerns: whether it is live (RFC 7662), and its end (RFC 7009).

Who may see what: a credential concerns the workload that it was issued to, the resource of its audience, and
operators and auditors of its tenant. To all others it looks like no token at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from stepwrit.digest import DigestError, parse_json, unb64u
from stepwrit.tokens import CredentialClaims, StepToken
from stepwrit.wire import TYP_CREDENTIAL, TYP_STEP_TOKEN
from stepwrit_broker.core import marks, standing
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.clocks import ends_at
from stepwrit_broker.core.errors import Malformed, Problem, Refused, Unavailable, Unproven
from stepwrit_broker.core.grant import GrantRecord
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.step import FINAL
from stepwrit_broker.flows.house import House, operation
from stepwrit_broker.ports import Evidence, MarkCommand

REASON = "revoked by the client it was issued to"
_READERS = frozenset({"operator", "auditor"})
_HEADER_CHARS = 2_048


async def introspect(house: House, caller: Caller, unverified: str) -> Mapping[str, object] | None:
    """The claims of a credential that would open its door now, for whom it concerns; else None.

    Spends nothing. Who shows somebody else's live credential is recorded. Raises Unavailable.
    """
    now = house.clock.now()
    claims = _credential(house, unverified, now)
    record = None if claims is None else await house.store.grant(claims.grant)
    if claims is None or record is None or not await _is_live(house, record, now):
        return None
    if not _concerns(house, caller, record):
        await _strange(house, caller, claims, "introspect")
        return None
    return cast("Mapping[str, object]", json.loads(record.grant.claims))


async def revoke_token(house: House, caller: Caller, unverified: str, op_id: str, digest: str) -> Mark | None:
    """The client ends its own: a performer its credential, an initiator the step that its token names.

    None when there is nothing to end, or it is not the caller's. Raises Malformed(`unsupported_token_type`),
    Unavailable: then the token may still be live (RFC 7009 section 2.2.1).
    """
    _check_type(unverified)
    now = house.clock.now()
    target = await _credential_of(house, caller, unverified, now) or await _step_of(
        house, caller, unverified, now
    )
    if target is None:
        return None
    wanted = Mark(target=target, verb="revoke", reason=REASON, by=caller.workload.id, at=now, ref=house.ref())
    op = operation(caller, "revoke_token", op_id, digest)
    return await house.store.mark(MarkCommand(op=op, mark=wanted, lift=False, evidence=Evidence(), now=now))


def _credential(house: House, unverified: str, now: float) -> CredentialClaims | None:
    try:
        return house.credentials.read(unverified, now)
    except Unproven:
        return None


def _step_token(house: House, unverified: str, now: float) -> StepToken | None:
    try:
        return house.step_tokens.read(unverified, now)
    except Unproven:
        return None


def _concerns(house: House, caller: Caller, record: GrantRecord) -> bool:
    grant, entry = record.grant, caller.entry
    if entry.tenant != grant.tenant:
        return False
    registry = house.settings.now_in_force().registry
    return (
        caller.workload.id == grant.performer
        or entry.role in _READERS
        or registry.redeems(caller.workload.id, grant.audience)
    )


async def _is_live(house: House, record: GrantRecord, now: float) -> bool:
    """What redeem would say of the credential, its step and everything above, marks included."""
    try:
        await _check_live(house, record, now)
    except Unavailable:
        raise
    except Problem:
        return False
    return True


async def _check_live(house: House, record: GrantRecord, now: float) -> None:
    standing.check_grant(record, house.store.epoch, now)
    under = await house.store.step(record.grant.step)
    root = None if under is None else await house.store.step(under.step.ancestors[0])
    if under is None or root is None:
        raise Refused("not_found", "no such step")
    performer = marks.subjects_of_workload(record.grant.performer)
    subjects = (*marks.subjects_of_grant(record.grant), *performer, *marks.subjects_of_step(under.step))
    marks.test(house.store.marks(), subjects)
    lives = house.settings.now_in_force().limits.lives
    standing.check_step(under, ends_at=ends_at(lives, under), txn_ends_at=root.step.expires_at, now=now)


async def _credential_of(house: House, caller: Caller, unverified: str, now: float) -> str | None:
    """The mark's target for a credential of the caller's that could still be used, now or after a thaw."""
    claims = _credential(house, unverified, now)
    record = None if claims is None else await house.store.grant(claims.grant)
    if claims is None or record is None:
        return None
    if claims.performer != caller.workload.id:
        await _strange(house, caller, claims, "revoke_token")
        return None
    try:
        standing.check_grant(record, house.store.epoch, now)
    except Problem:
        return None
    return _unless_revoked(house, f"grant:{claims.grant}")


async def _step_of(house: House, caller: Caller, unverified: str, now: float) -> str | None:
    """The mark's target for a running step whose token was issued to the caller."""
    token = _step_token(house, unverified, now)
    record = None if token is None else await house.store.step(token.step)
    if token is None or record is None or record.life.state in FINAL:
        return None
    if token.initiator != caller.workload.id:
        await _strange(house, caller, token, "revoke_token")
        return None
    return _unless_revoked(house, f"step:{token.step}")


def _unless_revoked(house: House, target: str) -> str | None:
    """None when that very mark stands already: a retry writes nothing."""
    mark = house.store.marks().get(target)
    return None if mark is not None and mark.verb == "revoke" else target


async def _strange(house: House, caller: Caller, claims: CredentialClaims | StepToken, verb: str) -> None:
    """Somebody shows what was issued to another: on record, though the caller is told nothing."""
    about = {"txn": claims.txn, "step": claims.step, "tool": claims.tool or ""}
    if isinstance(claims, CredentialClaims):
        about["grant"] = claims.grant
    problem = Refused("wrong_workload", "the token was issued to another workload", rule=verb)
    await house.refusals.note(problem, caller, verb, about)


def _check_type(unverified: str) -> None:
    """What cannot be ended here: a handle, or a signed document of a kind that is not ours to end."""
    if any(is_id(kind, unverified) for kind in ("txn", "stp", "grt", "apr")):
        raise Malformed(
            "unsupported_token_type", "an id is a name, not a token: POST /v1/revocations takes it"
        )
    said = _type_of(unverified)
    if said is not None and said not in (TYP_CREDENTIAL, TYP_STEP_TOKEN):
        raise Malformed(
            "unsupported_token_type", f"only {TYP_CREDENTIAL} and {TYP_STEP_TOKEN} are revoked here"
        )


def _type_of(unverified: str) -> str | None:
    """The `typ` that a compact JWS says it has, `JWT` when it says none; None for what is no JWS."""
    head, *rest = unverified.split(".")
    if len(rest) != 2 or not head or len(head) > _HEADER_CHARS:
        return None
    try:
        header = parse_json(unb64u(head))
    except DigestError:
        return None
    if not isinstance(header, dict) or "alg" not in header:
        return None
    said = header.get("typ", "JWT")
    return said if isinstance(said, str) else None
