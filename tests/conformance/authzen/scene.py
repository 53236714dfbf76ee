"""The certification's fixture in this broker's words, and a gateway that asks.

Scenario: openid/authzen certification/authorization-api-1_0-scenario.md. Its users, records and verbs become
workloads, tools and arguments; its rules 1 to 5, 7 and 8 become a policy. Rule 6, a role that the request
itself claims for its subject, is what this broker never believes: see `test_claims.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.stage import ENTRIES, LIMITS, Actor, Reply, Stage, spiffe

from stepwrit.wire import CeilingSpec

SINGLE, MANY = "/access/v1/evaluation", "/access/v1/evaluations"
CONFIGURATION = "/.well-known/authzen-configuration"
GATEWAY = "gateway/edge"
_FACTS = {"write": "/write", "soft": "/soft"}
_RECORDS = {
    "one": {"impact": "low", "plan": "self", "facts": _FACTS},
    "two": {"impact": "low", "plan": "self", "facts": _FACTS},
    "danger": {"impact": "high", "plan": "self", "facts": _FACTS},
}
ASKING: list[dict[str, Any]] = [
    {"id": GATEWAY, "role": "gateway", "name": "edge",
     "may_ask": ["records/*", "ledger/*", "audit/*", "client/*"]},
    {"id": "gateway/narrow", "role": "gateway", "name": "narrow", "may_ask": ["records/one"]},
    {"id": "gateway/fleet/*", "role": "gateway", "name": "fleet", "may_ask": ["records/*"]},
    {"id": "gateway/blue", "role": "gateway", "name": "blue-edge", "tenant": "blue", "may_ask": ["vault/*"]},
    {"id": "mcp-server/records", "role": "mcp-server", "name": "records", "tools": _RECORDS,
     "may_start": {"tools": ["audit/*"], "impact": "low"}, "may_ask": ["records/*", "audit/*"]},
    {"id": "agent/alice", "role": "agent", "name": "alice", "clients": ["alice-app"],
     "may_start": {"tools": ["records/*", "audit/*"], "impact": "high"}},
    {"id": "agent/bob", "role": "agent", "name": "bob", "clients": ["bob-app"],
     "may_start": {"tools": ["records/*"], "impact": "high"}},
    {"id": "agent/both", "role": "agent", "name": "both", "clients": ["both-app"], "attest": ["x509", "jwt"],
     "may_start": {"tools": ["records/*"], "impact": "high"}},
]  # fmt: skip
QUESTIONS = "  - {name: questions, on: questions, per: [workload], rate: 60000/min, burst: 10000}\n"
ASKS = "approvals: {per_requester: 1000, per_initiator: 1000}\n"
RULES = """\
@id("bob-writes-nothing")
@reason("bob may not write")
forbid (principal, action == Stepwrit::Action::"open_step", resource)
when { context.initiator.name == "bob" && context.facts has write && context.facts.write };

@id("archived")
@reason("what is archived stays as it is")
forbid (principal, action == Stepwrit::Action::"open_step", resource)
when { context.action.tool == "records/two" && context.facts has write && context.facts.write };

@id("soft-only")
@reason("only what can be undone")
forbid (principal, action == Stepwrit::Action::"open_step", resource)
when { context.facts has soft && !context.facts.soft };
"""

READ: dict[str, Any] = {"name": "open_step"}
WRITE: dict[str, Any] = {"name": "open_step", "properties": {"args": {"write": True}}}
RECORD_1: dict[str, Any] = {"type": "tool", "id": "records/one"}
RECORD_2: dict[str, Any] = {"type": "tool", "id": "records/two"}


def delete(*, soft: bool) -> dict[str, Any]:
    return {"name": "open_step", "properties": {"args": {"soft": soft}}}


class AskedStage(Stage):
    """A stage whose broker answers questions, under the fixture's rules."""

    def __init__(self, *, limits: str | None = None, **how: Any) -> None:
        text = LIMITS.replace("concurrency:", f"{QUESTIONS}{ASKS}concurrency:").replace(
            "count: 3", "count: 4"
        )
        super().__init__(entries=[*ENTRIES, *ASKING], limits=limits or text, **how)

    async def start(self) -> None:
        (self.folder / "policy" / "60-fixture.cedar").write_text(RULES)
        (self.folder / "policy" / "facts.json").write_text(json.dumps({"write": "Bool", "soft": "Bool"}))
        await super().start()

    def forget_questions(self) -> None:
        """New windows for what each asker may have on record, and full buckets."""
        self.broker.housed.answers._tallies.clear()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Alice and Bob, each in a transaction of theirs, and the gateway before the records."""

    stage: AskedStage
    gateway: Actor
    roots: Mapping[str, str] = field(default_factory=dict)

    @property
    def alice(self) -> dict[str, Any]:
        return person("alice")

    @property
    def bob(self) -> dict[str, Any]:
        return person("bob")

    def of(self, who: str, **more: Any) -> dict[str, Any]:
        """The context of a question about one of them."""
        return {"step": self.roots[who], **more}

    def question(
        self, who: str, action: Mapping[str, Any], resource: Mapping[str, Any], **more: Any
    ) -> dict[str, Any]:
        return {
            "subject": person(who), "action": dict(action), "resource": dict(resource),
            "context": self.of(who), **more,
        }  # fmt: skip

    async def root(self, who: str) -> dict[str, Any]:
        """A fresh transaction of theirs."""
        ceiling = CeilingSpec(tools=("records/*",), impact="high")
        return await (await self.stage.actor(f"agent/{who}")).intent(ceiling=ceiling)

    async def ask(self, body: Any, *, path: str = SINGLE, by: Actor | None = None, **headers: str) -> Reply:
        return await ask(by or self.gateway, body, path=path, **headers)

    async def decide(self, body: Any, **how: Any) -> bool:
        reply = await self.ask(body, **how)
        return decision(reply)

    async def decide_all(self, body: Any, **how: Any) -> list[bool]:
        reply = await self.ask(body, path=MANY, **how)
        return decisions(reply)


def person(who: str) -> dict[str, Any]:
    return {"type": "workload", "id": spiffe(f"agent/{who}")}


async def ask(by: Actor, body: Any, *, path: str = SINGLE, **headers: str) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {
        "content-type": "application/json",
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    return await by.send("POST", path, raw, sent)


def decision(reply: Reply) -> bool:
    """Of a good answer: 200, JSON, a boolean `decision`, and a context that is an object."""
    assert reply.status == 200, reply.raw
    assert reply.headers["content-type"] == "application/json"
    return _decided(reply.body)


def decisions(reply: Reply) -> list[bool]:
    assert reply.status == 200, reply.raw
    assert "decision" not in reply.body
    return [_decided(each) for each in reply.body["evaluations"]]


def _decided(value: Mapping[str, Any]) -> bool:
    assert isinstance(value["decision"], bool)
    assert isinstance(value["context"], dict)
    return bool(value["decision"])


def reason(reply: Reply) -> str:
    """The word for a no."""
    assert decision(reply) is False, reply.raw
    return str(reply.body["context"]["reason"])
