"""Under the stance `workflow` a server starts declared steps: no other, not more of them, not out of turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest_asyncio
from tests.fakes.stage import Actor, Opened, Reply, Stage, refused

ENTRIES: list[dict[str, Any]] = [
    {"id": "agent/chat", "role": "agent", "name": "chat", "clients": ["chat-app"],
     "may_start": {"tools": ["ledger/*", "audit/*"], "impact": "high"}},
    {"id": "mcp-server/ledger", "role": "mcp-server", "name": "ledger",
     "tools": {"close": {"impact": "low", "plan": "self", "facts": {"month": "/month"}},
               "list": {"impact": "low", "plan": "self"}},
     "may_start": {"tools": ["audit/*", "ledger/*"], "impact": "high"}},
    {"id": "mcp-server/audit", "role": "mcp-server", "name": "audit",
     "tools": {"check": {"impact": "low", "plan": "self", "facts": {"month": "/month"}},
               "seal": {"impact": "medium", "plan": "self", "facts": {"month": "/month"}}},
     "may_start": {"tools": ["audit/*", "ledger/*"], "impact": "high"}},
    {"id": "mcp-server/mallory", "role": "mcp-server", "name": "mallory",
     "tools": {"look": {"impact": "low"}},
     "may_start": {"tools": ["audit/*", "ledger/*"], "impact": "high"}},
]  # fmt: skip
SAME = {"month": {"same_as": "close.month"}}
BOOKS: dict[str, Any] = {
    "name": "books",
    "steps": [
        {"name": "close", "by": "chat", "tool": "ledger/close", "times": 50},
        {"name": "check", "by": "ledger", "tool": "audit/check", "under": "close", "times": 3, "facts": SAME},
        {"name": "seal", "by": "ledger", "tool": "audit/seal", "under": "close", "after": ["check"]},
        {"name": "ask", "by": "ledger", "tool": "client/elicitation", "under": "close"},
    ],
}
MARCH = {"month": 3}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_stage() -> AsyncGenerator[Stage]:
    entries = [*ENTRIES, {"id": "operator/ops", "role": "operator", "name": "ops"}]
    async with Stage(entries=entries, policy="workflow", workflows=[BOOKS]) as stage:
        yield stage


class Books:
    """One accepted `ledger/close` of a person's transaction."""

    def __init__(self, stage: Stage, close: Opened, ledger: Actor, audit: Actor) -> None:
        self.stage, self.close, self.ledger, self.audit = stage, close, ledger, audit

    async def start(self, tool: str = "audit/check", **args: Any) -> Reply:
        return await self.ledger.open_reply(self.close.step, tool, args=args or MARCH)

    async def done(self, tool: str = "audit/check") -> None:
        opened = await self.ledger.open(self.close.step, tool, args=MARCH)
        (await self.audit.accept(opened)).ok()
        (await self.audit.close(opened.step)).ok()


@pytest_asyncio.fixture(loop_scope="module")
async def books(stage: Stage) -> Books:
    close = await stage.accepted("ledger/close", args=MARCH)
    return Books(stage, close, *await stage.actors("mcp-server/ledger", "mcp-server/audit"))


def undeclared(stage: Stage, reply: Reply) -> None:
    entry = refused(stage, reply, "policy")
    assert entry.facts is not None
    assert "server-declared-only" in str(entry.facts["rule"])


async def test_a_server_repeats_a_declared_step_beyond_its_count(books: Books) -> None:
    for _ in range(3):
        (await books.start()).ok()
    undeclared(books.stage, await books.start())


async def test_a_server_opens_many_at_once_to_get_one_more(books: Books) -> None:
    tried = await asyncio.gather(*(books.start() for _ in range(16)))
    opened = [each for each in tried if each.status == 201]
    assert len(opened) == 3
    assert {each.code for each in tried if each.status != 201} <= {"policy", "stale_version"}
    assert len(books.stage.happened(books.close.txn, "step.opened")) == 4


async def test_what_failed_counts_too(books: Books) -> None:
    for _ in range(3):
        opened = await books.ledger.open(books.close.step, "audit/check", args=MARCH)
        (await books.audit.accept(opened)).ok()
        (await books.audit.close(opened.step, "failed")).ok()
    undeclared(books.stage, await books.start())


async def test_a_server_starts_a_step_out_of_turn(books: Books) -> None:
    undeclared(books.stage, await books.start("audit/seal"))
    (await books.start()).ok()
    undeclared(books.stage, await books.start("audit/seal"))  # started is not done
    await books.done()
    (await books.start("audit/seal")).ok()


async def test_a_server_starts_a_declared_step_below_another_of_its_steps(books: Books) -> None:
    (await books.start()).ok()
    other = await books.stage.accepted("ledger/list")
    undeclared(books.stage, await books.ledger.open_reply(other.step, "audit/check", args=MARCH))


async def test_a_server_changes_the_arguments(books: Books) -> None:
    (await books.start(month=3)).ok()
    for args in ({"month": 4}, {"month": "3"}, {"month": True}, {"note": "no month"}):
        undeclared(books.stage, await books.start(**args))


async def test_another_server_starts_what_was_declared_for_one(books: Books) -> None:
    opened = await books.ledger.open(books.close.step, "audit/check", args=MARCH)
    (await books.audit.accept(opened)).ok()
    undeclared(books.stage, await books.audit.open_reply(opened.step, "audit/seal", args=MARCH))
    mallory = await books.stage.actor("mcp-server/mallory")
    refused(
        books.stage, await mallory.open_reply(books.close.step, "audit/check", args=MARCH), "origin_claimed"
    )
    (await books.start()).ok()


async def test_a_server_has_the_agent_begin_the_workflow_for_it(books: Books) -> None:
    """Below what a server asked of it, the agent's own step is the server's, and begins nothing."""
    stage, chat = books.stage, await books.stage.actor("agent/chat")
    asked = await books.ledger.open(books.close.step, "client/elicitation", args={"q": "close April?"})
    assert (await chat.accept(asked)).ok()["origin"] == "server"
    refused(stage, await chat.open_reply(asked.step, "ledger/close", args={"month": 4}), "policy", "ceiling")
    root = stage.happened(books.close.txn, "intent.opened")[0].facts
    assert root is not None
    (await chat.open_reply(str(root["step"]), "ledger/close", args={"month": 4})).ok()


async def test_a_form_is_declared_like_any_other_step(books: Books) -> None:
    asked = {
        "parent": books.close.step,
        "server": "client",
        "tool": "elicitation",
        "args": {"q": "?"},
        "v": 1,
    }
    (await books.ledger.json("/v1/steps", asked)).ok()
    undeclared(books.stage, await books.ledger.json("/v1/steps", asked))


async def test_a_count_survives_a_restart(books: Books) -> None:
    for _ in range(3):
        (await books.start()).ok()
    await books.stage.restart()
    undeclared(books.stage, await books.start())


async def test_the_ledger_says_which_declared_step_it_was(books: Books) -> None:
    await books.done()
    (await books.start()).ok()
    kept: Any = [
        books.stage.broker.ledger.decision(str((entry.facts or {})["decision"]))
        for entry in books.stage.happened(books.close.txn, "step.opened")
    ]
    told = [each["document"]["workflow"] for each in kept]
    assert [(each["step"], each["nth"], each["times"]) for each in told] == [
        ("close", 1, 50),
        ("check", 1, 3),
        ("check", 2, 3),
    ]


async def test_what_is_declared_no_longer_is_refused_from_then_on(books: Books) -> None:
    (await books.start()).ok()
    stage = books.stage
    stage.workflows = [{**BOOKS, "steps": BOOKS["steps"][:1]}]
    stage.write_registry(stage.entries)
    (await stage.apply("registry", (stage.folder / "registry.yaml").read_text())).ok()
    undeclared(stage, await books.start())
