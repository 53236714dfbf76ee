"""A house on a real store, with real keys; only clock, entropy, policy and people are fakes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.fakes import build
from tests.fakes.clock import START, FakeClock
from tests.fakes.entropy import SeededEntropy

from stepwrit.digest import args_digest, body_digest
from stepwrit.dpop import make_proof, make_step_proof, token_hash
from stepwrit.jws import SigningKey
from stepwrit.wire import (
    AcceptRequest,
    CeilingSpec,
    Impact,
    IntentRequest,
    OpenStepRequest,
    PlanItem,
    RedeemRequest,
    RequestDetails,
)
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.declared import Workflow
from stepwrit_broker.core.errors import Refused, Unavailable
from stepwrit_broker.core.limits import Limits
from stepwrit_broker.core.registry import Client, Entry, Registry, Tool
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.core.verdict import NeedsApproval, Permit, Question, Verdict
from stepwrit_broker.core.versions import Versions
from stepwrit_broker.core.workload import SpiffeId, Workload
from stepwrit_broker.flows import intent, issue, opening, performing, redeem
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.refusals import RefusalRecorder
from stepwrit_broker.keys.keyring import Keyring
from stepwrit_broker.keys.sealing import AesSealer
from stepwrit_broker.keys.tokens import OwnCredentials, OwnStepTokens
from stepwrit_broker.kinds.action_token import ActionToken
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ports import InForce, PersonProof
from stepwrit_broker.store.start import open_store
from stepwrit_broker.wiring.ending import Endings
from stepwrit_broker.wiring.waiting import Bells, Told

TD = "spiffe://example.test"
AGENT, OTHER_AGENT = SpiffeId(f"{TD}/agent/chat"), SpiffeId(f"{TD}/agent/other")
MAIL, FILES = SpiffeId(f"{TD}/mcp/mail/1"), SpiffeId(f"{TD}/mcp/files")
BANK, CRON, OPS = SpiffeId(f"{TD}/api/bank"), SpiffeId(f"{TD}/cron"), SpiffeId(f"{TD}/ops")
FOREIGN = SpiffeId(f"{TD}/other-tenant/agent")
AUDIENCE = "https://bank.example"
ISSUER, IDP = "https://broker.example", "https://idp.example"
ARGS: dict[str, object] = {"to": "bob", "amount": 5}
BODY = body_digest(b"{}")
PURPOSE = "pay bob"


def ceiling(*tools: str, impact: Impact = "high") -> Ceiling:
    return Ceiling(tools=frozenset(tools), impact=impact)


def _entries() -> tuple[Entry, ...]:
    pay = PlanItem(at=AUDIENCE, method="POST", path="/v1/transfers")
    look = PlanItem(at=AUDIENCE, method="GET", path="/v1/{account}", query=("page",), times=2)
    tools = {
        "pay": Tool(name="mail/pay", impact="low", plan=(pay, look), facts=(("to", "/to"),)),
        "note": Tool(name="mail/note", impact="low", is_self=True),
        "wipe": Tool(name="mail/wipe", impact="high"),
        "plain": Tool(name="mail/plain", impact="low"),
    }
    read = Tool(name="files/read", impact="low", plan=(pay,))
    client = Client(issuer=IDP, client_id="chat")
    return (
        Entry(
            id=AGENT,
            name="chat",
            role="agent",
            tenant="acme",
            may_start=ceiling("mail/*", "files/*"),
            clients=(client, Client(issuer=IDP, client_id="chat2")),
        ),
        Entry(id=OTHER_AGENT, name="other", role="agent", tenant="acme"),
        Entry(
            id=f"{TD}/mcp/mail/*",
            name="mail",
            role="mcp-server",
            tenant="acme",
            url="https://mail.example/mcp",
            tools=tools,
            may_start=ceiling("files/*", impact="low"),
        ),
        Entry(id=FILES, name="files", role="mcp-server", tenant="acme", tools={"read": read}),
        Entry(id=BANK, name="bank", role="resource", tenant="acme", audience=AUDIENCE),
        Entry(
            id=CRON,
            name="cron",
            role="trigger",
            tenant="acme",
            owner="team",
            may_start=ceiling("mail/pay", impact="low"),
        ),
        Entry(id=OPS, name="ops", role="operator", tenant="acme"),
        Entry(id=FOREIGN, name="foreign", role="agent", tenant="evil", may_start=ceiling("*")),
        Entry(
            id=f"{TD}/other-tenant/mcp",
            name="theirs",
            role="mcp-server",
            tenant="evil",
            tools={"read": Tool(name="theirs/read", impact="low")},
        ),
        Entry(
            id=f"{TD}/other-tenant/api",
            name="theirbank",
            role="resource",
            tenant="evil",
            audience="https://theirs.example",
        ),
    )


class FakePolicy:
    """The PolicyEngine port: says what it was told to say, and remembers what it was asked.

    An approval that the broker found enough is enough, as with every engine.
    """

    def __init__(self) -> None:
        self.says: Verdict = Permit(policies=("p1",))
        self.asked: list[Question] = []
        self.version = 0

    async def decide(self, question: Question) -> Verdict:
        self.asked.append(question)
        if isinstance(self.says, NeedsApproval) and question.document["approval"] is not None:
            return Permit(policies=("p1",), obligations=self.says.obligations)
        return self.says


class FakeSettings:
    """The Settings port. `stale`: for so many questions it answers with versions that are not in force.
    `missing`: nothing is in force.
    """

    def __init__(self, policy: FakePolicy) -> None:
        self.registry = Registry(version=0, entries=_entries())
        self.limits = build.limits()
        self.policy = policy
        self.stale = 0
        self.missing = False

    def now_in_force(self) -> InForce:
        if self.missing:
            raise Unavailable("unavailable", "no registry in force: nothing is granted")
        behind, self.stale = self.stale > 0, max(0, self.stale - 1)
        versions = Versions(policy=9 if behind else 0, registry=0, limits=0, bundles=0)
        return InForce(registry=self.registry, limits=self.limits, policy=self.policy, versions=versions)


class FakePeople:
    """The PersonProofs port: the token is its own name; its claims are what the test says."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.claims: dict[str, Any] = {}

    async def judge(self, id_token: str, now: float) -> PersonProof:
        if id_token == "bad":
            raise Refused("human_proof", "the ID token was not accepted")
        proof = PersonProof(
            issuer=IDP,
            subject="alice",
            clients=("chat",),
            auth_time=now - 5,
            nonce=None,
            digest=id_token,
            until=now + 300,
        )
        return replace(proof, **self.claims)


@dataclass
class Stages:
    """Remembers which stages ended."""

    marked: list[str]

    def mark(self, stage: str) -> None:
        self.marked.append(stage)


class Rig:
    """Everything a verb needs, and the ordinary way through all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock, self.entropy, self.policy = FakeClock(), SeededEntropy(), FakePolicy()
        self.settings, self.people = FakeSettings(self.policy), FakePeople(self.clock)
        self.store = open_store(path, log=SqliteLog(), entropy=self.entropy)
        self.store.use(self.settings.limits, lambda: 0)
        self.told: list[str] = []
        self.heard: list[tuple[str, str, str, str, str]] = []
        self.refusals = RefusalRecorder(
            store=self.store,
            clock=self.clock,
            entropy=self.entropy,
            heard=lambda *said: self.heard.append(said),
        )
        self.steps = OwnStepTokens(
            Keyring("st", now=START, longest_s=300), issuer=ISSUER, trust_domain="example.test"
        )
        self.credentials = OwnCredentials(Keyring("at", now=START, longest_s=900), issuer=ISSUER)
        self.keys = {
            who: SigningKey.generate() for who in (AGENT, OTHER_AGENT, MAIL, FILES, CRON, FOREIGN, BANK, OPS)
        }
        self.endings = Endings(self.store.epoch)
        self.store.heed(ended=self.endings.tell, marked=lambda: None)
        self.house = House(
            issuer=ISSUER,
            trust_domain="example.test",
            clock=self.clock,
            entropy=self.entropy,
            store=self.store,
            settings=self.settings,
            step_tokens=self.steps,
            credentials=self.credentials,
            kinds={"action_token": ActionToken(self.credentials)},
            people=self.people,
            pepper=b"pepper",
            refusals=self.refusals,
            approvals=self.store.approvals,
            sealer=AesSealer(b"p" * 32, self.entropy),
            notices=Told(self.told.append, []),
            bell=Bells(),
            ends=self.endings,
        )
        self._count = itertools.count()

    async def close(self) -> None:
        await self.store.close()

    def limit(self, **bounds: Any) -> Limits:
        """Other limits, in force everywhere."""
        self.settings.limits = build.limits(**bounds)
        self.store.use(self.settings.limits, lambda: 0)
        return self.settings.limits

    def op(self) -> str:
        return f"operation-{next(self._count):08}"

    def caller(self, who: SpiffeId, *, key: bool = True, **changes: Any) -> Caller:
        """`who`, attested, registered and (with `key`) with a fresh proof."""
        entry = self.settings.registry.entry_for(who)
        assert entry is not None
        made = Caller(
            workload=Workload(id=who, attested_by="x509", expires_at=self.clock.time + 3600, serial="5e"),
            entry=entry,
            jkt=self.keys[who].thumbprint if key else None,
            proof_jti=f"jti-{next(self._count)}",
            proof_until=self.clock.time + 65,
        )
        return replace(made, **changes)

    def believe(self, agent: SpiffeId) -> None:
        """Let the registry take this agent's word on what influenced a step."""
        entries = (
            replace(entry, narrows_influence=entry.narrows_influence or entry.id == agent)
            for entry in self.settings.registry.entries
        )
        self.settings.registry = Registry(version=0, entries=tuple(entries))

    def register(self, *workflows: Workflow) -> None:
        """Other workflows, in force everywhere."""
        self.settings.registry = replace(self.settings.registry, workflows=workflows)

    # --- the ordinary way

    def wish(self, **changes: Any) -> IntentRequest:
        base = IntentRequest(
            purpose=PURPOSE, ceiling=CeilingSpec(tools=("mail/*", "files/*")), exp=int(self.clock.time) + 1800
        )
        return replace(base, **changes)

    async def start(self, who: SpiffeId = AGENT, **changes: Any) -> StepRecord:
        started = await intent.start_intent(
            self.house,
            self.caller(who),
            self.wish(**changes),
            None if who == CRON else self.op(),
            self.op(),
            "d",
        )
        return started.record

    def call(self, root: StepRecord, tool: str = "mail/pay", /, **changes: Any) -> OpenStepRequest:
        server, _, name = tool.partition("/")
        return replace(OpenStepRequest(parent=root.step.id, server=server, tool=name, args=ARGS), **changes)

    async def open(
        self, root: StepRecord, tool: str = "mail/pay", /, *, who: SpiffeId = AGENT, **changes: Any
    ) -> opening.StepReady:
        request = self.call(root, tool, **changes)
        return await opening.open_step(self.house, self.caller(who), request, self.op(), "d")

    def arrival(
        self, ready: opening.StepReady, *, round_: int = 1, by: SpiffeId = AGENT, **changes: Any
    ) -> AcceptRequest:
        args = args_digest(ARGS)
        proof = make_step_proof(
            self.keys[by], token=ready.token, args=args, round=round_, now=self.clock.time, jti=self.op()
        )
        return replace(AcceptRequest(token=ready.token, proof=proof, args=args, round=round_), **changes)

    async def take(
        self,
        ready: opening.StepReady,
        *,
        who: SpiffeId = MAIL,
        by: SpiffeId = AGENT,
        round_: int = 1,
        **changes: Any,
    ) -> performing.Accepted:
        return await performing.accept(
            self.house,
            self.caller(who, key=False),
            ready.record.step.id,
            self.arrival(ready, by=by, round_=round_, **changes),
            self.op(),
            "d",
        )

    async def accepted(self, tool: str = "mail/pay") -> StepRecord:
        ready = await self.open(await self.start(), tool)
        return (await self.take(ready)).record

    def details(self, **changes: Any) -> RequestDetails:
        base = RequestDetails(
            type="stepwrit_action", method="POST", url=f"{AUDIENCE}/v1/transfers", body=BODY
        )
        return replace(base, **changes)

    async def credential(
        self,
        step: StepRecord,
        *,
        who: SpiffeId = MAIL,
        audience: str = AUDIENCE,
        subject: str | None = None,
        **changes: Any,
    ) -> issue.Issued:
        return await issue.issue(
            self.house,
            self.caller(who),
            subject or step.step.id,
            audience,
            self.details(**changes),
            self.op(),
            "d",
            Stages([]),
        )

    def use(
        self, token: str, *, by: SpiffeId = MAIL, url: str | None = None, **changes: Any
    ) -> RedeemRequest:
        url = url or f"{AUDIENCE}/v1/transfers"
        proof = make_proof(self.keys[by], "POST", url, self.clock.time, self.op(), ath=token_hash(token))
        return replace(RedeemRequest(token=token, proof=proof, method="POST", url=url, body=BODY), **changes)

    async def spend(self, token: str, *, who: SpiffeId = BANK, **changes: Any) -> redeem.Spent:
        return await redeem.redeem(
            self.house, self.caller(who, key=False), self.use(token, **changes), self.op(), "d"
        )

    # --- looking

    def entries(self, kind: str = "") -> list[Mapping[str, Any]]:
        """The committed entries' bodies, oldest first."""
        view = SqliteLedgerView(self.path)
        try:
            found = view.tail(-1, 1000, [kind] if kind else [], None)
        finally:
            view.close()
        return [each.facts or {} for each in found]
