"""The code of docs/how-to/fastmcp.md, as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fastmcp
import pytest

from stepwrit import testing
from stepwrit._testing_kit import AGENT, Kit

PAGE = Path(__file__).parents[2] / "docs/how-to/fastmcp.md"
stepwrit = testing.stepwrit


@pytest.fixture
def page() -> dict[str, Any]:
    """The names that its code defines."""
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


async def test_its_test_passes(page: dict[str, Any], stepwrit: Kit) -> None:
    await page["test_a_refusal"](stepwrit)
    assert stepwrit.ledger.reasons() == ["limit"]


async def test_its_task_is_run_by_the_worker(page: dict[str, Any], stepwrit: Kit) -> None:
    guard = page["guard"]
    before, guard.guarded_by.broker = guard.guarded_by.broker, stepwrit.workload("ledger")
    agent = stepwrit.agent()
    token = stepwrit.broker.id_token(agent=AGENT)
    try:
        async with (
            fastmcp.Client(page["mcp"]) as client,
            agent.intent(token, purpose="a test", tools=["*"]) as intent,
        ):
            result = await page["of_an_agent"](intent, client)
    finally:
        guard.guarded_by.broker = before
    assert result.data == "May, started by model"
    assert "resumed" in stepwrit.ledger.kinds()


async def test_its_tools_call_what_they_say(page: dict[str, Any], stepwrit: Kit) -> None:
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/v1/transfers")
    async def create(body: dict[str, int]) -> int:
        return body["cents"]

    audit = fastmcp.FastMCP("audit", middleware=[page["Stepwrit"].from_env(name="audit")])

    @audit.tool
    async def record(month: str) -> str:
        step = page["current_step"]()
        return f"{month} by {step.origin}"

    stepwrit.tool("transfer", plan=["POST https://bank.example/v1/transfers"])
    stepwrit.resource(app, "https://bank.example")
    audit.middleware[0].guarded_by.broker = stepwrit.workload("audit")  # type: ignore[attr-defined]
    page["Client"] = lambda _url: fastmcp.Client(audit)
    async with stepwrit.client(page["mcp"]) as client:
        assert (await client.call_tool("transfer", {"amount": 5})).data == "500"
        assert (await client.call_tool("reconcile", {"month": "May"})).data == "May by server"
