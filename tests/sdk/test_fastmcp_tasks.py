"""Background tasks of FastMCP: the body runs in the worker as its call's step."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastmcp import Client, FastMCP

from stepwrit import testing
from stepwrit._testing_kit import AGENT, Kit
from stepwrit.agent import Intent
from stepwrit.fastmcp import Credential, Stepwrit, credential, current_step

BANK = "https://bank.example"
stepwrit = testing.stepwrit


@pytest.fixture
def seen() -> list[Any]:
    return []


def server(seen: list[Any], url: str = "memory://") -> FastMCP:
    guard = Stepwrit.from_env(name="ledger")
    made = FastMCP("ledger", middleware=[guard])
    made.add_extension(guard.tasks(url=url))

    @made.tool(task=True)
    async def crunch(n: int, bank: Annotated[Credential, credential(BANK)]) -> str:
        step = current_step()
        seen.append((step.tool, step.origin, step.round, step.ended))
        await bank.token("GET", f"{BANK}/v1/rates")
        return f"crunched {n}"

    return made


@asynccontextmanager
async def calling(
    kit: Kit, made: FastMCP, tasks: Any = ("crunch",)
) -> AsyncGenerator[tuple[Client[Any], Intent]]:
    kit.tool("crunch", plan=[f"GET {BANK}/v1/rates"])
    made.middleware[0].guarded_by.broker = kit.workload("ledger")  # type: ignore[attr-defined]
    token = kit.broker.id_token(agent=AGENT)
    async with (
        Client(made) as client,
        kit.agent().intent(token, purpose="a test", tools=["*"]) as intent,
    ):
        intent.guard(client, "ledger", tasks=tasks)
        yield client, intent


async def test_the_body_runs_in_the_worker_as_the_step_of_its_call(stepwrit: Kit, seen: list[Any]) -> None:
    async with calling(stepwrit, server(seen)) as (client, _):
        result = await client.call_tool("crunch", {"n": 5})

    assert result.data == "crunched 5"
    assert seen == [("ledger/crunch", "model", 2, None)]
    kinds = stepwrit.ledger.kinds()
    assert kinds == ["intent", "opened", "accepted", "waiting", "resumed", "issued", "done", "done"]
    assert len({entry.step for entry in stepwrit.ledger.entries[1:-1] if entry.kind != "issued"}) == 1
