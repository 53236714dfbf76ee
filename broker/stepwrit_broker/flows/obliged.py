"""What a permit demands, fulfilled: of who asks at once, of the step as it is opened, of each credential."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.core.obligations import Obligation, cap, strictest, unmet
from stepwrit_broker.core.step import Step
from stepwrit_broker.core.verdict import NeedsApproval, Permit, Question

_UNKNOWN: Final = "an obligation of the policy is not known here"
_DEMANDED: Final = {
    "x509": "the policy demands a caller attested by X.509-SVID",
    "mtls": "the policy demands mutual TLS from the caller itself, not through a proxy",
    "dpop": "the policy demands a DPoP proof",
}


def check_obligations(version: int, question: Question, verdict: Permit | NeedsApproval) -> None:
    """Who asks is attested and bound as policy demands, and the step may start no more than policy now says.

    Raises Refused(`policy`), naming the obligation and its policy.
    """
    missed = unmet(verdict.obligations, question.proved)
    if missed is not None:
        raise _refused(version, missed, _DEMANDED.get(missed.value, _UNKNOWN))
    now = cap(verdict.obligations, "fan_out")
    if now is not None and question.asking == "issue_credential" and not _is_held(question.held, now):
        raise _refused(version, now, "the step was opened to start more steps than policy now allows")


def _is_held(held: tuple[Obligation, ...], now: Obligation) -> bool:
    """What a step may start was written down as it was opened, and stays so."""
    then = cap(held, "fan_out")
    return then is not None and int(then.value) <= int(now.value)


def obliged(step: Step, verdict: Permit | NeedsApproval) -> Step:
    """The step as it is opened: with what policy demands of it, beside what was handed down to it."""
    if not verdict.obligations:
        return step
    return replace(step, obligations=strictest((*step.obligations, *verdict.obligations)))


def shortened(grant: Grant, step: Step, verdict: Permit) -> Grant:
    """The grant, ending no later than what the step or this decision demands."""
    most = cap((*step.obligations, *verdict.obligations), "max_life")
    if most is None:
        return grant
    return replace(grant, expires_at=min(grant.expires_at, float(int(grant.issued_at + int(most.value)))))


def _refused(version: int, missed: Obligation, reason: str) -> Refused:
    return Refused(
        "policy", reason, rule=f"policy v{version} {missed}", who_can_change_it="the operator (policy)"
    )
