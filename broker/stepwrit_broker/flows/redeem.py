"""Redeem: the resource's exchange of a credential for a go-ahead, exactly once."""

from __future__ import annotations

from dataclasses import dataclass

from stepwrit.digest import DigestError, request_digest_of
from stepwrit.wire import RedeemRequest
from stepwrit_broker.core import marks
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Problem, Refused
from stepwrit_broker.core.grant import GrantRecord
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.flows.house import House, normalised, operation
from stepwrit_broker.flows.performing import FINDINGS
from stepwrit_broker.ports import Evidence, Presented, ProofUse, RedeemCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The go-ahead: what may be done, for whom, and who started it."""

    grant: GrantRecord
    step: StepRecord


async def redeem(house: House, caller: Caller, request: RedeemRequest, op_id: str, digest: str) -> Spent:
    """Spend once. A wrong redeemer, key or request spends nothing.

    Raises: Unproven, Refused(`wrong_workload`, `request_changed`, `replay`, …), Unavailable.
    """
    about: dict[str, object] = {}
    try:
        now = house.clock.now()
        if request.finding is not None:
            await _report(house, request, about, now)
        url = normalised(request.url, "invalid_request")
        shown = house.credentials.present(
            request.token, request.proof, method=request.method, url=url, now=now
        )
        about.update(
            txn=shown.claims.txn, step=shown.claims.step, grant=shown.claims.grant, tool=shown.claims.tool
        )
        _check_redeemer(house, caller, shown.claims.audience)
        grant, step = await house.store.redeem(_command(caller, request, url, shown, op_id, digest, now))
        return Spent(grant=grant, step=step)
    except Problem as problem:
        await house.refusals.note(problem, caller, "redeem", about)
        raise


async def _report(house: House, request: RedeemRequest, about: dict[str, object], now: float) -> None:
    """A guard refused what carries our signature: nothing is spent, the refusal gets its entry and ref."""
    claims = house.credentials.read(request.token, now)
    about.update(txn=claims.txn, step=claims.step, grant=claims.grant, tool=claims.tool)
    code = request.finding if request.finding in FINDINGS else "invalid_request"
    raise Refused(code or "invalid_request", "the resource's guard refused the request", rule="guard")


def _digest(request: RedeemRequest, url: str) -> str:
    try:
        return request_digest_of(request.method, url, request.body)
    except DigestError as bad:
        raise Malformed("invalid_request", str(bad)) from bad


def _check_redeemer(house: House, caller: Caller, audience: str) -> None:
    if not house.settings.now_in_force().registry.redeems(caller.workload.id, audience):
        raise Refused(
            "wrong_workload", "this workload does not redeem for that audience", rule="registry audience"
        )


def _command(
    caller: Caller, request: RedeemRequest, url: str, shown: Presented, op_id: str, digest: str, now: float
) -> RedeemCommand:
    claims = shown.claims
    stops = (
        *marks.subjects_of_caller(caller),
        f"resource:{claims.audience}",
        f"key:{shown.jkt}",
    )
    return RedeemCommand(
        op=operation(caller, "redeem", op_id, digest),
        grant=claims.grant,
        redeemer=caller.workload.id,
        audience=claims.audience,
        jkt=shown.jkt,
        request=_digest(request, url),
        subjects=stops,
        proofs=(ProofUse(kind="dpop", key=f"{shown.jkt}.{shown.proof_jti}", until=shown.proof_until),),
        evidence=Evidence(facts={"redeemer": caller.workload.id, "svid": caller.workload.serial}),
        now=now,
    )
