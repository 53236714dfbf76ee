"""A guarded server over streamable HTTP: what the `Txn-Token` header may and may not say."""

from contextlib import AsyncExitStack

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from tests.sdk.test_client_fakes import AGENT
from tests.sdk.test_mcp import carried
from tests.sdk.test_mcp_rig import ERAS, SDKS, Rig, text_of

from stepwrit.lineage import current_step

URL = "http://127.0.0.1:8000/mcp"


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("era", ERAS)
async def test_in_mcp_the_header_may_only_repeat_the_token(sdk: str, era: str) -> None:
    rig = Rig(sdk=sdk)

    @rig.server.tool()
    async def transfer(amount: int) -> str:
        return current_step().id

    is_fastmcp = sdk == "fastmcp"
    make = rig.server.http_app if is_fastmcp else rig.server.streamable_http_app
    app = make(stateless_http=True, json_response=True)
    async with AsyncExitStack() as stack:
        running = app.router.lifespan_context(app) if is_fastmcp else rig.server.session_manager.run()
        await stack.enter_async_context(running)

        async def call(headers: dict[str, str], token: str | None) -> str:
            transport = httpx2.ASGITransport(app)
            async with (
                httpx2.AsyncClient(transport=transport, headers=headers) as http,
                Client(streamable_http_client(URL, http_client=http), mode=era) as client,
            ):
                meta = None if token is None else carried(rig, token)
                return text_of(await client.call_tool("transfer", {"amount": 5}, meta=meta))

        def fresh() -> str:
            row = rig.fake.add("p", "ledger", "transfer", {"amount": 5}, rig.agent.key.thumbprint, AGENT)
            return rig.fake.token(row)

        right = fresh()
        assert (await call({"Txn-Token": right}, right)).startswith("stp_")
        assert (await call({}, fresh())).startswith("stp_")
        assert await call({"Txn-Token": fresh()}, fresh()) == "refused: invalid_request. ref REPORTED"
        assert await call({"Txn-Token": fresh()}, None) == "refused: no_step."
