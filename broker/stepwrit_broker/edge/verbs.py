"""The workloads' hot routes: parse, call one flow, render. Plain ASGI, in front of everything else."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from typing import Final

from stepwrit.shape import write
from stepwrit.wire import (
    AcceptRequest,
    CloseRequest,
    MarkRequest,
    MarkSet,
    OpenStepRequest,
    Redeemed,
    RedeemRequest,
    StepAccepted,
    StepOpened,
    StepStatus,
    WaitRequest,
)
from stepwrit.wire_chain import PeerBroker
from stepwrit.wire_deferred import ResumeRequest, StepResumed
from stepwrit.wire_ended import EndedRequest, EndedStep, EndedSteps
from stepwrit.wire_tasks import AttendRequest
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.step import Step
from stepwrit_broker.edge.caller import Callers
from stepwrit_broker.edge.http import Request, Response
from stepwrit_broker.flows import attending, ended, opening, performing, resuming, revoke
from stepwrit_broker.flows import redeem as redeeming
from stepwrit_broker.flows.house import House, Refusals, requester_name
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Moved

_WAIT: Final = re.compile(r"(?:^|[,;\s])wait=(\d{1,3})(?:$|[,;\s])")
Verb = Callable[[Request, str], Awaitable[Response]]


class Verbs:
    """One method per route; each a straight line."""

    def __init__(self, house: House, callers: Callers, metrics: Metrics) -> None:
        self._house, self._callers, self._metrics = house, callers, metrics
        self._of_step: Mapping[str, Verb] = {
            "token": self.token,
            "accept": self.accept,
            "wait": self.wait,
            "heartbeat": self.heartbeat,
            "close": self.close,
            "attend": self.attend,
            "resume": self.resume,
        }

    @property
    def refusals(self) -> Refusals:
        """Where refusals go that no flow has recorded."""
        return self._house.refusals

    def route(self, path: str) -> tuple[str, Verb, str] | None:
        """The verb's name, its method and the step id in the path; None for a path that is not hot."""
        if path == "/v1/steps":
            return "open", self.open, ""
        if path == "/v1/steps/ended":
            return "ended", self.ended, ""
        if path == "/v1/redeem":
            return "redeem", self.redeem, ""
        if path == "/v1/revocations":
            return "revoke", self.revoke, ""
        if path.startswith("/v1/steps/"):
            step, _, verb = path[len("/v1/steps/") :].partition("/")
            found = self._of_step.get(verb)
            return None if found is None else (verb, found, step)
        return None

    async def open(self, request: Request, _: str) -> Response:
        """`POST /v1/steps`."""
        caller = await self._callers.of(request, proof=True)
        asked = request.shape(OpenStepRequest)
        ready = await opening.open_step(self._house, caller, asked, request.operation, request.digest)
        self._metrics.opened(ready.record.step.origin)
        return _opened(ready, self._peer(ready.record.step))

    async def token(self, request: Request, step: str) -> Response:
        """`POST /v1/steps/{id}/token`. `Prefer: wait=20` (RFC 7240) holds the answer for an approval."""
        caller = await self._callers.of(request, proof=True, unwritten=True)
        ready = await opening.renew_token(self._house, caller, step, wait_of(request))
        return _opened(ready, self._peer(ready.record.step))

    def _peer(self, step: Step) -> PeerBroker | None:
        """The broker to which a step is to be taken, where it is not this one."""
        registry = self._house.settings.now_in_force().registry
        entry = registry.server(_tool(step).partition("/")[0])
        peer = None if entry is None or entry.issuer is None else registry.peer(entry.issuer)
        if peer is None or peer.url is None or peer.broker is None:
            return None
        return PeerBroker(issuer=peer.issuer, url=peer.url, broker_id=peer.broker)

    async def accept(self, request: Request, step: str) -> Response:
        """`POST /v1/steps/{id}/accept`."""
        caller = await self._callers.of(request, proof=False)
        asked = request.shape(AcceptRequest)
        got = await performing.accept(self._house, caller, step, asked, request.operation, request.digest)
        if got.self_grant is not None:
            self._metrics.self_granted(_tool(got.record.step), got.record.step.origin)
        return Response(status=200, value=write(_accepted(got)))

    async def resume(self, request: Request, step: str) -> Response:
        """`POST /v1/steps/{id}/resume`."""
        caller = await self._callers.of(request, proof=True)
        request.shape(ResumeRequest)
        got = await resuming.resume(self._house, caller, step, request.operation, request.digest)
        if got.self_grant is not None:
            self._metrics.self_granted(_tool(got.record.step), got.record.step.origin)
        accepted = _accepted(got)
        told = {each.name: getattr(accepted, each.name) for each in fields(accepted)}
        return Response(status=200, value=write(StepResumed(**told, args=got.args)))

    async def wait(self, request: Request, step: str) -> Response:
        """`POST /v1/steps/{id}/wait`."""
        caller = await self._callers.of(request, proof=False)
        asked = request.shape(WaitRequest)
        moved = await performing.wait(self._house, caller, step, asked, request.operation, request.digest)
        return _status(moved)

    async def heartbeat(self, request: Request, step: str) -> Response:
        """`POST /v1/steps/{id}/heartbeat`."""
        caller = await self._callers.of(request, proof=False, stopped_too=True)
        return _status(
            await performing.heartbeat(self._house, caller, step, request.operation, request.digest)
        )

    async def attend(self, request: Request, step: str) -> Response:
        """`POST /v1/steps/{id}/attend`."""
        caller = await self._callers.of(request, proof=False)
        asked = request.shape(AttendRequest)
        record = await attending.attend(self._house, caller, step, asked, request.operation, request.digest)
        return _status(Moved(record=record, revoked=0))

    async def close(self, request: Request, step: str) -> Response:
        """`POST /v1/steps/{id}/close`."""
        caller = await self._callers.of(request, proof=False, stopped_too=True)
        asked = request.shape(CloseRequest)
        moved = await performing.close(
            self._house, caller, step, asked.outcome, request.operation, request.digest
        )
        self._metrics.closed(moved.record.life.state, moved.revoked)
        return _status(moved)

    async def ended(self, request: Request, _: str) -> Response:
        """`POST /v1/steps/ended`. `Prefer: wait=25` (RFC 7240) holds the answer until there is something."""
        caller = await self._callers.of(request, proof=False, stopped_too=True)
        asked = request.shape(EndedRequest)
        heard = await ended.ended_since(self._house, caller, asked.after, wait_of(request))
        steps = tuple(EndedStep(step=each.step, state=each.state, ref=each.ref) for each in heard.ended)
        told = EndedSteps(after=heard.after, steps=steps, complete=heard.complete)
        return Response(status=200, value=write(told))

    async def redeem(self, request: Request, _: str) -> Response:
        """`POST /v1/redeem`."""
        caller = await self._callers.of(request, proof=False)
        asked = request.shape(RedeemRequest)
        spent = await redeeming.redeem(self._house, caller, asked, request.operation, request.digest)
        self._metrics.redeemed(_tool(spent.step.step), spent.step.step.origin)
        return Response(status=200, value=write(_redeemed(spent)))

    async def revoke(self, request: Request, _: str) -> Response:
        """`POST /v1/revocations`: an operator's any mark, a workload's own step."""
        caller = await self._callers.of(request, proof=False)
        asked = request.shape(MarkRequest)
        if caller.entry.role == "operator":
            who = revoke.Operator(name=caller.workload.id, tenant=caller.entry.tenant)
            mark = await revoke.mark(self._house, who, asked, request.operation, request.digest)
        else:
            mark = await revoke.revoke_own(self._house, caller, asked, request.operation, request.digest)
        self._metrics.marked(asked.verb)
        return Response(status=200, value=write(MarkSet(target=mark.target, verb=asked.verb, ref=mark.ref)))


def wait_of(request: Request) -> float:
    """Seconds that the caller is willing to wait (RFC 7240 section 4.3); 0 where it does not say."""
    found = _WAIT.search(request.header(b"prefer") or "")
    return 0.0 if found is None else float(found[1])


def _tool(step: Step) -> str:
    if step.action is None:
        raise Malformed("invalid_request", "an intent has no action")
    return step.action.tool


def _opened(ready: opening.StepReady, peer: PeerBroker | None) -> Response:
    step = ready.record.step
    opened = StepOpened(
        step=step.id,
        txn=step.txn,
        token=ready.token,
        expires_in=ready.expires_in,
        origin=step.origin,
        performer=step.performer,
        ref=step.ref,
        peer=peer,
    )
    return Response(status=201, value=write(opened))


def _accepted(got: performing.Accepted | resuming.Resumed) -> StepAccepted:
    step, life = got.record.step, got.record.life
    return StepAccepted(
        step=step.id,
        txn=step.txn,
        ref=step.ref,
        round=life.round,
        origin=step.origin,
        requester=requester_name(step.intent.requester),
        purpose=step.intent.purpose,
        tool=_tool(step),
        chain=step.chain,
        plan=step.action.plan if step.action is not None else (),
        heartbeat_s=int(got.lives.heartbeat_s),
        ends_at=got.ends_at,
        self_grant=None if got.self_grant is None else got.self_grant.id,
        deferred=step.deferred,
    )


def _status(moved: Moved) -> Response:
    step, life = moved.record.step, moved.record.life
    return Response(
        status=200,
        value=write(StepStatus(step=step.id, state=life.state, ref=step.ref, revoked=moved.revoked)),
    )


def _redeemed(spent: redeeming.Spent) -> Redeemed:
    grant, step = spent.grant.grant, spent.step.step
    return Redeemed(
        grant=grant.id,
        step=step.id,
        txn=step.txn,
        ref=grant.ref,
        tool=_tool(step),
        origin=step.origin,
        requester=requester_name(step.intent.requester),
        performer=grant.performer,
        chain=step.chain,
    )
