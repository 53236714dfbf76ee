"""The in-memory broker: steps that run. Accept, wait, heartbeat, close, revoke."""

from __future__ import annotations

from dataclasses import fields

from stepwrit import _testing_approving as approving
from stepwrit._testing_books import GrantRow, No, StepRow
from stepwrit._testing_callers import Caller
from stepwrit._testing_opening import TRUST_DOMAIN
from stepwrit._testing_stepless import Stepless
from stepwrit.dpop import StepProof, verify_step_proof
from stepwrit.jws import TokenRefused
from stepwrit.tokens import StepToken
from stepwrit.verify import verify_step_token
from stepwrit.wire import (
    ACCEPTED_MAX_S,
    HEARTBEAT_LOST_S,
    HEARTBEAT_S,
    LEEWAY_S,
    AcceptRequest,
    MarkRequest,
    MarkSet,
    Outcome,
    StepAccepted,
    StepStatus,
    WaitRequest,
)
from stepwrit.wire_deferred import StepResumed
from stepwrit.wire_tasks import ROUND, AttendRequest

_DEAD = frozenset({"done", "failed", "cancelled"})
_GIVEN_UP = frozenset({"failed", "cancelled"})


class Running(Stepless):
    """A step between accept and close."""

    def accept(self, caller: Caller, step: str, request: AcceptRequest) -> StepAccepted:
        """Round 1, or the one after `wait`, for the performer that the token names."""
        row = self._mine(step, caller)
        token = self._step_token(row, request.token)
        if request.finding is not None:
            raise No(request.finding, "the performer refused it")
        self._initiated(row, request)
        if row.state == "accepted" and request.round == row.round:
            raise No("replay", "this round was accepted before")
        self._live(row, "opened", "waiting")
        if request.round != row.round + 1:
            raise No("wrong_state", f"the next round is {row.round + 1}")
        if request.state != row.awaits:
            raise No("state_changed", "this is not the requestState of the round before")
        if token.jti not in row.tokens:
            raise No("expired", "the step token has expired")
        self.registry.test(row.tool, "accept")
        row.state, row.round = "accepted", request.round
        row.tokens.discard(token.jti)
        self.note("accepted", caller, row)
        return self._accepted(row, self._own_use(caller, row))

    def resume(self, caller: Caller, step: str) -> StepResumed:
        """The next run of a deferred step, and the arguments that it was opened with."""
        row = self._mine(step, caller)
        caller.key()
        if approving.waits(row):
            raise No("authorization_pending", "the step waits for a person's signature", retry_after=5)
        self._live(row, "opened", "waiting", "accepted")
        if not row.deferred:
            raise No("wrong_state", "the step was not deferred")
        if row.state == "accepted":
            raise No("replay", "a run of this step is alive", retry_after=HEARTBEAT_LOST_S)
        self.registry.test(row.tool, "accept")
        row.state, row.round = "accepted", row.round + 1
        self.note("resumed", caller, row)
        accepted = self._accepted(row, self._own_use(caller, row))
        told = {each.name: getattr(accepted, each.name) for each in fields(accepted)}
        return StepResumed(**told, args=row.sealed)

    def _step_token(self, row: StepRow, token: str) -> StepToken:
        keys = {self.keys.step.kid: self.keys.step.verify_key}
        try:
            read = verify_step_token(
                token,
                keys,
                issuer=self.issuer,
                trust_domain=TRUST_DOMAIN,
                now=self.clock.now(),
                leeway=LEEWAY_S,
            )
        except TokenRefused as bad:
            raise No("expired" if bad.reason == "expired" else "invalid_token", str(bad)) from None
        if read.step != row.id:
            raise No("invalid_token", "the token is for another step")
        return read

    def _initiated(self, row: StepRow, request: AcceptRequest) -> None:
        if request.args != row.args:
            raise No("arguments_changed", "these are not the arguments of the step")
        try:
            verify_step_proof(
                request.proof,
                token=request.token,
                args=request.args,
                round=request.round,
                jkt=row.jkt,
                now=self.clock.now(),
                leeway=LEEWAY_S,
            )
        except TokenRefused as bad:
            raise No("invalid_proof", str(bad)) from None

    def _own_use(self, caller: Caller, row: StepRow) -> str | None:
        """A tool that is its own resource is used with its accept."""
        if row.tool is None or row.tool.plan is not None or row.round > 1:
            return None
        grant = self._id("grt")
        self.note("self", caller, row, grant=grant)
        return grant

    def _accepted(self, row: StepRow, self_grant: str | None) -> StepAccepted:
        tool = row.tool
        return StepAccepted(
            step=row.id,
            txn=row.txn.id,
            ref=row.ref,
            round=row.round,
            origin=row.origin,
            requester=row.txn.requester,
            purpose=row.txn.purpose,
            tool=tool.name if tool else "",
            chain=row.chain,
            plan=(tool.plan if tool else None) or (),
            heartbeat_s=HEARTBEAT_S,
            ends_at=min(self.clock.now() + ACCEPTED_MAX_S, row.txn.expires_at),
            self_grant=self_grant,
            deferred=row.deferred,
        )

    def wait(self, caller: Caller, step: str, request: WaitRequest) -> StepStatus:
        """The call answered "input required"."""
        row = self._mine(step, caller)
        self._live(row, "accepted")
        if request.round != row.round:
            raise No("wrong_state", f"this is round {row.round}")
        row.state, row.awaits = "waiting", request.state
        self.note("waiting", caller, row)
        return self._status(row)

    def heartbeat(self, caller: Caller, step: str) -> StepStatus:
        """It still runs."""
        row = self._mine(step, caller)
        self._live(row, "accepted")
        return self._status(row)

    def attend(self, caller: Caller, step: str, request: AttendRequest) -> StepStatus:
        """The initiator's proof over what it asks of the task, good once; and whether it may."""
        row = self._mine(step, caller)
        proof = self._attended(row, request)
        if row.line()[-1].state in _GIVEN_UP:
            raise No("closed", "what this belongs to has ended")
        if request.changes or row.state not in _DEAD:
            self._live(row, "accepted", "waiting")
        if proof.jti in row.attended:
            raise No("replay", "this proof was used before")
        row.attended.add(proof.jti)
        return self._status(row)

    def _attended(self, row: StepRow, request: AttendRequest) -> StepProof:
        try:
            return verify_step_proof(
                request.proof,
                token=row.id,
                args=request.args,
                round=ROUND,
                jkt=row.jkt,
                now=self.clock.now(),
                leeway=LEEWAY_S,
            )
        except TokenRefused as bad:
            raise No("invalid_proof", str(bad)) from None

    def close(self, caller: Caller, step: str, outcome: Outcome) -> StepStatus:
        """Its end, and that of its credentials and its children that are not deferred."""
        row = self._mine(step, caller)
        self._live(row, "accepted", "waiting", "opened")
        ended = self._end(row, outcome)
        if row.parent is None and outcome != "done":
            ended += self._give_up(row)
        self.note(outcome, caller, row)
        return self._status(row, ended)

    def _give_up(self, root: StepRow) -> int:
        """An intent that is not done ends its deferred steps too."""
        ended = 0
        for each in self._steps.values():
            if each.txn is root.txn and each.deferred and each.state not in _DEAD:
                if each.state == "accepted":
                    self.endings.tell(each, "cancelled")
                ended += self._end(each, "cancelled")
        return ended

    def _end(self, row: StepRow, outcome: str) -> int:
        row.state = outcome
        grants = [grant for grant in self._grants.values() if grant.step is row]
        ended = sum(self._end_grant(grant) for grant in grants)
        for child in [each for each in self._steps.values() if each.parent is row and not each.deferred]:
            if child.state not in _DEAD:
                if child.state == "accepted":
                    self.endings.tell(child, "cancelled")
                ended += self._end(child, "cancelled")
        return ended

    def _end_grant(self, grant: GrantRow) -> int:
        counts = grant.state in ("issued", "redeemed")
        grant.state = "closed" if grant.state == "issued" else grant.state
        return int(counts)

    def _status(self, row: StepRow, revoked: int = 0) -> StepStatus:
        return StepStatus(step=row.id, state=row.state, ref=row.ref, revoked=revoked)

    def mark(self, caller: Caller, request: MarkRequest) -> MarkSet:
        """An operator's durable "no"; or a workload's, to a step that it opened or performs."""
        if caller.spiffe_id not in self.registry.operators and not self._is_own(caller, request):
            raise No("not_found", "no such thing")
        if request.verb == "unfreeze":
            self.marks.discard(request.target)
        else:
            self.marks.add(request.target)
            for row in self._steps.values() if request.verb == "revoke" else ():
                if row.tool is not None and row.state == "accepted" and request.target in _targets(row):
                    self.endings.tell(row, "revoked")
        self.note(request.verb, caller, None)
        return MarkSet(target=request.target, verb=request.verb, ref=self.ledger.entries[-1].ref)

    def _is_own(self, caller: Caller, request: MarkRequest) -> bool:
        row = self._steps.get(request.target.removeprefix("step:"))
        parties = () if row is None else (row.initiator, row.performer)
        return request.verb == "revoke" and caller.spiffe_id in parties


def _targets(row: StepRow) -> set[str]:
    return {f"txn:{row.txn.id}", *(f"step:{each.id}" for each in row.line())}
