"""Builders: steps, grants and commands with everything in place; a test names only what it is about."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.fakes.entropy import SeededEntropy

from stepwrit.wire import HopSpec, PlanItem
from stepwrit_broker.core import ids, marks
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.core.limits import Charge, Limits, Lives, RateLimit, TransactionLimits
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.step import Action, Intent, Requester, Step, StepRecord
from stepwrit_broker.core.versions import Versions
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.ports import (
    AcceptCommand,
    AttendCommand,
    Evidence,
    MarkCommand,
    MoveCommand,
    OpenCommand,
    Operation,
    ProofUse,
    RedeemCommand,
    ReserveCommand,
    ResumeCommand,
    VersionCommand,
)

AGENT = SpiffeId("spiffe://example.test/agent/chat")
SERVER = SpiffeId("spiffe://example.test/mcp/mail")
RESOURCE = SpiffeId("spiffe://example.test/api/mail")
AUDIENCE = "https://mail.example.test"
KEY = "a" * 43
NO_VERSIONS = Versions(policy=0, registry=0, limits=0, bundles=0)


def limits(version: int = 0, *, count: int = 1_000_000, burst: int = 1_000_000, **bounds: int) -> Limits:
    """Wide limits; `bounds` are those of a transaction."""
    rates = tuple(
        RateLimit(
            name=f"{on}-all", on=on, per=("workload",), match=(), count=count, period_s=60.0, burst=burst
        )
        for on in ("intents", "steps", "credentials")
    )
    wide = {"steps": 1000, "depth": 8, "fan_out": 1000, "server_steps": 1000} | bounds
    return Limits(
        version=version,
        rates=rates,
        concurrency=(),
        transaction=TransactionLimits(**wide),
        lives=Lives(
            step_token_s=60,
            accepted_s=900,
            waiting_s=900,
            credential_s=60,
            intent_s=3600,
            heartbeat_s=20,
            lost_s=60,
        ),
    )


def mark_of(target: str, verb: str = "revoke", *, at: float = 0.0, ref: str = "REF0000000") -> Mark:
    return Mark(
        target=target,
        verb="revoke" if verb == "revoke" else "freeze",
        reason="test",
        by="ops",
        at=at,
        ref=ref,
    )


@dataclass
class Maker:
    """Makes commands with fresh ids; `now` is what they carry. Give a field by name to change it."""

    now: float
    seed: int = 7
    epoch: str = ""
    entropy: SeededEntropy = field(init=False)

    def __post_init__(self) -> None:
        self.entropy = SeededEntropy(self.seed)

    def id(self, kind: ids.Kind) -> str:
        return ids.make_id(kind, "00", self.entropy.bytes(ids.RANDOM_BYTES))

    def ref(self) -> str:
        return ids.make_ref(self.entropy.bytes(ids.REF_BYTES))

    def op(self, verb: str, **changes: str) -> Operation:
        base = Operation(caller=AGENT, key=KEY, verb=verb, id=self.entropy.bytes(8).hex(), digest="d")
        return replace(base, **changes)

    def proof(self) -> ProofUse:
        return ProofUse(kind="dpop", key=self.entropy.bytes(8).hex(), until=self.now + 300)

    def root_step(self, **changes: object) -> Step:
        txn = self.id("txn")
        intent = Intent(
            txn=txn,
            requester=Requester(opaque="per_1", issuer="https://idp.example.test", subject="alice"),
            owner=None,
            proof="bound",
            purpose="read my mail",
            cause=None,
            steps_max=1000,
            server_steps_max=1000,
            depth_max=8,
        )
        step = Step(
            id=self.id("stp"),
            txn=txn,
            intent=intent,
            parent=None,
            ancestors=(),
            chain=(),
            initiator=AGENT,
            initiator_jkt=KEY,
            performer=AGENT,
            origin="human",
            action=None,
            ceiling=Ceiling(tools=frozenset({"mail/*"}), impact="medium"),
            tenant="acme",
            deferred=False,
            opened_at=self.now,
            expires_at=self.now + 3600,
            ref=self.ref(),
        )
        return replace(step, **changes)

    def child_step(self, parent: StepRecord, **changes: object) -> Step:
        step_id, above = self.id("stp"), parent.step
        initiator = parent.life.performer or SERVER
        hop = HopSpec(step=step_id, initiator=initiator, performer=SERVER, origin="model", tool="mail/send")
        step = Step(
            id=step_id,
            txn=above.txn,
            intent=above.intent,
            parent=above.id,
            ancestors=(*above.ancestors, above.id),
            chain=(*above.chain, hop),
            initiator=initiator,
            initiator_jkt=KEY,
            performer=SERVER,
            origin="model",
            action=action(),
            ceiling=Ceiling(tools=frozenset({"mail/*"}), impact="low"),
            tenant=above.tenant,
            deferred=False,
            opened_at=self.now,
            expires_at=self.now + 300,
            ref=self.ref(),
        )
        return replace(step, **changes)

    def open(self, step: Step, **changes: object) -> OpenCommand:
        command = OpenCommand(
            op=self.op("open"),
            step=step,
            proofs=(self.proof(),),
            subjects=marks.subjects_of_step(step),
            charge=Charge(on="steps" if step.parent else "intents", values={"workload": step.initiator}),
            versions=NO_VERSIONS,
            evidence=Evidence(facts={"svid": "01"}),
            now=self.now,
        )
        return replace(command, **changes)

    def accept(self, record: StepRecord, **changes: object) -> AcceptCommand:
        command = AcceptCommand(
            op=self.op("accept", caller=SERVER),
            step=record.step.id,
            caller=SERVER,
            round=record.life.round + 1,
            subjects=(),
            proofs=(),
            self_grant=None,
            evidence=Evidence(),
            now=self.now,
        )
        return replace(command, **changes)

    def deferred(self, parent: StepRecord, **changes: object) -> OpenCommand:
        """A deferred child with sealed arguments."""
        step = self.child_step(parent, deferred=True, expires_at=self.now + 7200)
        return self.open(replace(step, **changes), sealed=b"sealed")

    def resume(self, record: StepRecord, **changes: object) -> ResumeCommand:
        command = ResumeCommand(
            op=self.op("resume", caller=SERVER),
            step=record.step.id,
            caller=SERVER,
            subjects=(),
            proofs=(self.proof(),),
            charge=Charge(on="steps", values={"workload": SERVER}),
            self_grant=None,
            versions=NO_VERSIONS,
            evidence=Evidence(facts={"svid": "03"}),
            now=self.now,
        )
        return replace(command, **changes)

    def grant(self, record: StepRecord, **changes: object) -> Grant:
        grant = Grant(
            id=self.id("grt"),
            step=record.step.id,
            txn=record.step.txn,
            kind="action_token",
            tenant=record.step.tenant,
            audience=AUDIENCE,
            performer=SERVER,
            jkt=KEY,
            request="r" * 43,
            method="POST",
            url=f"{AUDIENCE}/send",
            plan_line=0,
            is_self=False,
            issued_at=self.now,
            expires_at=self.now + 60,
            epoch=self.epoch,
            ref=self.ref(),
            claims='{"jti":"x"}',
        )
        return replace(grant, **changes)

    def reserve(self, grant: Grant, **changes: object) -> ReserveCommand:
        command = ReserveCommand(
            op=self.op("credential", caller=SERVER),
            grant=grant,
            caller=SERVER,
            line_times=1,
            proofs=(self.proof(),),
            subjects=(),
            charge=Charge(on="credentials", values={"workload": SERVER}),
            versions=NO_VERSIONS,
            evidence=Evidence(facts={"svid": "02"}),
            now=self.now,
        )
        return replace(command, **changes)

    def redeem(self, grant: Grant, **changes: object) -> RedeemCommand:
        command = RedeemCommand(
            op=self.op("redeem", caller=RESOURCE),
            grant=grant.id,
            redeemer=RESOURCE,
            audience=grant.audience,
            jkt=grant.jkt,
            request=grant.request,
            subjects=(),
            proofs=(self.proof(),),
            evidence=Evidence(),
            now=self.now,
        )
        return replace(command, **changes)

    def move(self, record: StepRecord, verb: str, **changes: object) -> MoveCommand:
        command = MoveCommand(
            op=self.op(verb, caller=SERVER),
            step=record.step.id,
            caller=record.life.performer or SERVER,
            verb=verb,
            outcome="done" if verb == "close" else None,
            round=record.life.round,
            ref=self.ref(),
            evidence=Evidence(),
            now=self.now,
        )
        return replace(command, **changes)

    def attend(self, record: StepRecord, **changes: object) -> AttendCommand:
        command = AttendCommand(
            op=self.op("attend", caller=SERVER),
            step=record.step.id,
            caller=record.life.performer or SERVER,
            changes=False,
            subjects=(),
            proofs=(ProofUse(kind="step", key=self.id("grt"), until=self.now + 60),),
            now=self.now,
        )
        return replace(command, **changes)

    def mark(
        self, target: str, verb: str = "revoke", *, lift: bool = False, **changes: object
    ) -> MarkCommand:
        mark = mark_of(target, verb, at=self.now, ref=self.ref())
        command = MarkCommand(
            op=self.op("unfreeze" if lift else verb, caller="ops"),
            mark=mark,
            lift=lift,
            evidence=Evidence(),
            now=self.now,
        )
        return replace(command, **changes)

    def version(self, kind: str = "policy", expected: int = 0, **changes: object) -> VersionCommand:
        command = VersionCommand(
            kind="policy",
            expected=expected,
            digest=self.entropy.bytes(8).hex(),
            source="run-time",
            doc="{}",
            by="ops",
            reason="test",
            ref=self.ref(),
            marks=(),
            lifts=(),
            evidence=Evidence(),
            now=self.now,
        )
        return replace(command, **{"kind": kind, **changes})


def action(**changes: object) -> Action:
    """One call of `mail/send`, with a plan of one request."""
    plan = (PlanItem(at=AUDIENCE, method="POST", path="/send"),)
    base = Action(
        server="mail",
        tool="mail/send",
        args="s" * 43,
        impact="low",
        schema="schema1",
        facts=(("to", "bob"), ("count", 2), ("urgent", True)),
        plan=plan,
    )
    return replace(base, **changes)
