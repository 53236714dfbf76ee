"""The official SDK has no background tasks: whoever asks for one is told so, by type."""

from typing import Any

import pytest
from mcp import MCPError
from mcp_types import METHOD_NOT_FOUND, Request, RequestParams, Result
from tests.sdk.test_mcp_rig import ERAS, Rig, text_of

from stepwrit.wire import META_REFUSAL


class Asks(Request[RequestParams, Any]):
    method: Any
    params: RequestParams


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_requests_about_tasks_are_refused_by_type(era: str, method: str) -> None:
    rig = Rig()
    async with rig.client(era) as client:
        with pytest.raises(MCPError) as told:
            await client.session.send_request(Asks(method=method, params=RequestParams()), Result)
    assert told.value.error.data[META_REFUSAL]["code"] == "not_yet_supported"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("method", ["tasks/list", "tasks/result"])
async def test_methods_that_are_gone_are_unknown_as_the_protocol_says(era: str, method: str) -> None:
    rig = Rig()
    async with rig.client(era) as client:
        with pytest.raises(MCPError) as told:
            await client.session.send_request(Asks(method=method, params=RequestParams()), Result)
    assert told.value.error.code == METHOD_NOT_FOUND


async def test_a_call_that_is_to_be_a_task_is_refused_and_runs_nothing() -> None:
    rig, ran = Rig(), list[int]()

    @rig.server.tool()
    async def crunch(n: int) -> str:
        ran.append(n)
        return "done"

    async with rig.guarded("legacy") as (client, intent):
        assert text_of(await client.call_tool("crunch", {"n": 1})) == "done"
        step = await intent.open("ledger", "crunch", {"n": 1})
        params = {"name": "crunch", "arguments": {"n": 1}, "task": {"ttl": 60}, "_meta": await step.meta()}
        told = await client.session._dispatcher.send_raw_request("tools/call", params, {})
    assert told["isError"]
    assert told["_meta"][META_REFUSAL]["code"] == "not_yet_supported"
    assert ran == [1]
