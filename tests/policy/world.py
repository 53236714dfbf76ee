"""Decision questions for policy tests, built the way the flows build them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stepwrit.wire import HopSpec, Impact, Origin, PlanItem
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.document import credential_question, intent_question, step_question
from stepwrit_broker.core.registry import Entry
from stepwrit_broker.core.step import Action, Intent, Requester, Step
from stepwrit_broker.core.verdict import Question
from stepwrit_broker.core.workload import AttestedBy, SpiffeId, Workload, parse_spiffe_id

NOW = 1_800_000_000.25
AGENT = parse_spiffe_id("spiffe://prod.example/agent/chat")
SERVER = parse_spiffe_id("spiffe://prod.example/ns/pay/sa/ledger-mcp")
CRON = parse_spiffe_id("spiffe://prod.example/cron")
HOME = "prod.example"
PARTNER_AGENT = parse_spiffe_id("spiffe://partner.example/agent")
PARTNER_SERVER = parse_spiffe_id("spiffe://partner.example/mcp")
BANK = Entry(
    id="spiffe://prod.example/bank/*",
    name="bank",
    role="resource",
    tenant="default",
    audience="https://bank.example",
)
PARTNER_BANK = replace(BANK, id="spiffe://partner.example/bank")
ENTRIES = {
    PARTNER_AGENT: Entry(id=PARTNER_AGENT, name="guest", role="agent", tenant="default"),
    PARTNER_SERVER: Entry(id=PARTNER_SERVER, name="ledger", role="mcp-server", tenant="default"),
    AGENT: Entry(id=AGENT, name="chat", role="agent", tenant="default"),
    SERVER: Entry(id=SERVER, name="ledger", role="mcp-server", tenant="default"),
    CRON: Entry(id=CRON, name="nightly", role="trigger", tenant="default", owner="ops@prod.example"),
}
MAIL: dict[str, object] = {
    "step": "stp_0",
    "server": "mail",
    "tool": "mail/read",
    "impact": "low",
    "origin": "model",
    "returns": "untrusted",
    "times": 2,
}
PERSON = Requester(opaque="per_1", issuer="https://idp.example", subject="alice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is asked: who opens what, below which origin, attested how, with which facts; who performs it, and
    what it opens.
    """

    origin: Origin
    impact: Impact
    attested_by: AttestedBy = "x509"
    facts: tuple[tuple[str, str | int | bool], ...] = ()
    person: bool = True
    agent: SpiffeId = AGENT
    server: SpiffeId = SERVER
    bank: Entry = BANK
    influence: tuple[dict[str, object], ...] = ()
    workflow: dict[str, object] | None = None


def caller(workload: str, attested_by: AttestedBy = "x509") -> Caller:
    who = parse_spiffe_id(workload)
    return Caller(
        workload=Workload(id=who, attested_by=attested_by, expires_at=NOW + 600, serial="01"),
        entry=ENTRIES[who],
        jkt="k",
    )


def step(scene: Scene) -> Step:
    opener = scene.server if scene.origin == "server" else scene.agent
    root = "stp_root"
    hop = HopSpec(
        step="stp_1", initiator=opener, performer=scene.server, origin=scene.origin, tool="ledger/transfer"
    )
    return Step(
        id="stp_1",
        txn="txn_1",
        intent=_intent(person=scene.person),
        parent=root,
        ancestors=(root,),
        chain=(hop,),
        initiator=opener,
        initiator_jkt="k",
        performer=scene.server,
        origin=scene.origin,
        action=Action(
            server=scene.server,
            tool="ledger/transfer",
            args="A" * 43,
            impact=scene.impact,
            schema=None,
            facts=scene.facts,
            plan=(PlanItem(at="https://bank.example", method="POST", path="/v1/transfers"),),
        ),
        ceiling=Ceiling(tools=frozenset({"audit/*"}), impact="low"),
        tenant="default",
        deferred=False,
        opened_at=NOW,
        expires_at=NOW + 300,
        ref="REF",
    )


def _intent(*, person: bool) -> Intent:
    return Intent(
        txn="txn_1",
        requester=PERSON if person else None,
        owner=None if person else "ops@prod.example",
        proof="bound" if person else None,
        purpose="pay invoice 42",
        cause=None,
        steps_max=200,
        server_steps_max=20,
        depth_max=8,
    )


def root(*, person: bool, opener: str) -> Step:
    base = step(Scene(origin="model", impact="low", person=person))
    return Step(
        id="stp_root",
        txn="txn_1",
        intent=base.intent,
        parent=None,
        ancestors=(),
        chain=(),
        initiator=parse_spiffe_id(opener),
        initiator_jkt="k",
        performer=opener,
        origin="human" if person else "server",
        action=None,
        ceiling=base.ceiling,
        tenant="default",
        deferred=False,
        opened_at=NOW,
        expires_at=NOW + 300,
        ref="REF",
    )


def opening(scene: Scene) -> Question:
    made = step(scene)
    who = caller(made.initiator, scene.attested_by)
    return step_question(
        caller=who,
        step=made,
        performer=ENTRIES[scene.server],
        home=HOME,
        now=NOW,
        influence=scene.influence,
        workflow=scene.workflow,
    )


def issuing(scene: Scene) -> Question:
    made = step(scene)
    return credential_question(
        caller=caller(scene.server, scene.attested_by),
        step=made,
        initiator=ENTRIES[made.initiator],
        redeemer=scene.bank,
        home=HOME,
        now=NOW,
        influence=scene.influence,
        workflow=scene.workflow,
    )


def starting(*, person: bool, opener: str) -> Question:
    return intent_question(caller=caller(opener), step=root(person=person, opener=opener), home=HOME, now=NOW)
