"""What OPA answered, read strictly, and the verdict that it means: combined as Cedar's policies are."""

from __future__ import annotations

from collections.abc import Container, Iterable

import msgspec

from stepwrit_broker.core.obligations import EVERY_FACT, Obligation, redacted, strictest
from stepwrit_broker.core.obligations import read as obligation
from stepwrit_broker.core.terms import Terms, together
from stepwrit_broker.core.verdict import Deny, NeedsApproval, Permit, Verdict
from stepwrit_broker.policy.demands import SILENT, UNKNOWN, checked, undeclared
from stepwrit_broker.policy.source import ID, SENTENCE


class NotAnAnswer(ValueError):  # noqa: N818  reads as what it is
    """A shape, an id or a sentence that no policy of ours gives."""


class _Forbid(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    id: str
    reason: str


class _NeedsApproval(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    id: str
    setting: str
    signatures: int = 1
    approvers: tuple[str, ...] = ()
    requester: str | None = None

    @property
    def terms(self) -> Terms:
        """Whose signatures it demands. Raises ValueError where nobody could give them."""
        return checked(self.signatures, self.approvers, self.requester)


class _Obligation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    id: str
    name: str
    value: str


class Answer(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The sets that a policy defines. `files`: those it was made of, as they say themselves."""

    permit: list[str]
    forbid: list[_Forbid]
    needs_approval: list[_NeedsApproval]
    obligation: list[_Obligation]
    files: list[str]


class _Body(msgspec.Struct, frozen=True):
    result: Answer | None = None


_read = msgspec.json.Decoder(_Body).decode


def read(body: bytes) -> Answer | None:
    """The answer in a response body; None where OPA does not know the policy. Raises NotAnAnswer."""
    try:
        answer = _read(body).result
    except (msgspec.MsgspecError, RecursionError) as bad:
        raise NotAnAnswer(str(bad)) from bad
    if answer is not None:
        _check(answer)
    return answer


def _check(answer: Answer) -> None:
    """Ids and sentences go into refusals: they are bounded by the same rules as Cedar's annotations."""
    named = [*answer.permit, *(each.id for each in answer.forbid)]
    named += [*(each.id for each in answer.needs_approval), *(each.id for each in answer.obligation)]
    said = [*(each.reason for each in answer.forbid), *(each.setting for each in answer.needs_approval)]
    if not all(map(ID.fullmatch, named)):
        raise NotAnAnswer("an id is not of a-z 0-9 . _ -")
    if not all(map(SENTENCE.fullmatch, said)):
        raise NotAnAnswer("a reason or setting is not one plain sentence of at most 160 letters")
    try:
        for each in answer.needs_approval:
            _ = each.terms
    except ValueError as bad:
        raise NotAnAnswer(str(bad)) from bad


def verdict(answer: Answer, facts: Container[str], *, approved: bool = False) -> Verdict:
    """Any forbid denies; no permit denies; then obligations, which must be known; then approval.

    facts: those that are declared. approved: the broker found that the terms are met, so a rule that asks for
    them stops nothing.
    """
    obligations, wrong = _obligations(answer, facts)
    redact = frozenset({EVERY_FACT}) if wrong else redacted(obligations)
    forbids = sorted(answer.forbid, key=lambda each: (each.id, each.reason))
    if forbids:
        return Deny(policies=_ids(each.id for each in forbids), reason=forbids[0].reason, redact=redact)
    if not answer.permit:
        return Deny(policies=(), reason=SILENT, redact=redact)
    if wrong:
        return Deny(policies=wrong, reason=UNKNOWN, redact=redact)
    waits = sorted(answer.needs_approval, key=lambda each: (each.id, each.setting))
    if waits and not approved:
        return NeedsApproval(
            policies=_ids(each.id for each in waits),
            setting=waits[0].setting,
            terms=together(each.terms for each in waits),
            obligations=obligations,
        )
    return Permit(policies=_ids(answer.permit), obligations=obligations)


def _obligations(answer: Answer, facts: Container[str]) -> tuple[tuple[Obligation, ...], tuple[str, ...]]:
    """All of them, as `strictest` leaves them, and the ids of those not known here, or not of their shape."""
    found, wrong = list[Obligation](), list[str]()
    for each in answer.obligation:
        try:
            stated = obligation(each.id, each.name, each.value)
        except ValueError:
            stated = ()
        found += stated
        if not stated or undeclared(stated, facts):
            wrong.append(each.id)
    return strictest(found), _ids(wrong)


def _ids(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(found)))
