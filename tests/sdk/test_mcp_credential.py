"""The handle in both real SDKs: one credential per request sent, none before, none after."""

import asyncio
from typing import Annotated, Any
from urllib.parse import parse_qs

import httpx2
import pytest
from fastmcp import Context as FastMCPContext
from mcp.server.mcpserver import Context
from mcp_types import ElicitResult
from tests.sdk.test_client_fakes import refused
from tests.sdk.test_mcp_asking import asking
from tests.sdk.test_mcp_rig import ERAS, SDKS, Rig, text_of

from stepwrit import sync
from stepwrit.digest import body_digest
from stepwrit.dpop import token_hash, verify_proof
from stepwrit.errors import ConfigurationError, RefusedError
from stepwrit.mcp import Credential
from stepwrit.wire import META_REFUSAL

pytestmark = pytest.mark.parametrize("era", ERAS)
BANK = "https://bank.example"


@pytest.fixture(params=SDKS)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(sdk=str(request.param))


def bank_of(rig: Rig, kind: type[Credential] = Credential) -> Any:
    """What a tool's parameter is annotated with."""
    return Annotated[kind, rig.adapter.credential(BANK, kind=kind)]


@pytest.fixture
def arrived() -> list[httpx2.Request]:
    return []


@pytest.fixture
def bank(arrived: list[httpx2.Request]) -> httpx2.MockTransport:
    def take(request: httpx2.Request) -> httpx2.Response:
        arrived.append(request)
        return httpx2.Response(200, text="ok")

    return httpx2.MockTransport(take)


def details(rig: Rig) -> list[dict[str, Any]]:
    import json

    bodies = [parse_qs(request.body.decode()) for verb, request in rig.fake.seen if verb == "token"]
    return [json.loads(body["authorization_details"][0])[0] for body in bodies if "resource" in body]


async def test_one_credential_per_request_sent_bound_to_that_request(
    rig: Rig, bank: httpx2.MockTransport, arrived: list[httpx2.Request], era: str
) -> None:
    Bank = bank_of(rig)

    @rig.server.tool()
    async def transfer(amount: int, right: Bank) -> str:
        async with httpx2.AsyncClient(auth=right, base_url=BANK, transport=bank) as http:
            await http.post("/v1/transfers", json={"cents": amount})
            await http.get("/v1/transfers", params={"page": "2"})
        return repr(right)

    async with rig.guarded(era) as (client, _):
        result = await client.call_tool("transfer", {"amount": 5})

    assert [each["method"] for each in details(rig)] == ["POST", "GET"]
    assert [each["url"] for each in details(rig)] == [f"{BANK}/v1/transfers", f"{BANK}/v1/transfers?page=2"]
    assert details(rig)[0]["body"] == body_digest(arrived[0].content)
    assert arrived[0].headers["Authorization"] != arrived[1].headers["Authorization"]
    for request in arrived:
        scheme, _, token = request.headers["Authorization"].partition(" ")
        assert scheme == "DPoP"
        verify_proof(
            request.headers["DPoP"],
            htm=request.method,
            htu=str(request.url),
            now=rig.fake.clock.now(),
            leeway=0,
            ath=token_hash(token),
            jkt=rig.broker.key.thumbprint,
        )
        assert token not in text_of(result)


async def test_the_handle_is_no_argument_of_the_tool(rig: Rig, era: str) -> None:
    Bank = bank_of(rig)

    @rig.server.tool()
    async def transfer(amount: int, right: Bank) -> str:
        return "ok"

    async with rig.client(era) as client:
        (tool,) = (await client.list_tools()).tools

    assert list(tool.input_schema["properties"]) == ["amount"]


async def test_nothing_is_minted_for_a_tool_that_sends_nothing_or_while_a_person_reads(
    rig: Rig, bank: httpx2.MockTransport, era: str
) -> None:
    Bank = bank_of(rig)
    minted_when_asked: list[int] = []

    async def send(right: Credential) -> str:
        async with httpx2.AsyncClient(auth=right, base_url=BANK, transport=bank) as http:
            return (await http.post("/v1/transfers", json={})).text

    asking(rig, Bank, send)

    async def answer(_ctx: object, _params: object) -> ElicitResult:
        minted_when_asked.append(len(details(rig)))
        return rig.answer

    rig.elicited = answer  # type: ignore[method-assign]
    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("pay", {"amount": 5})) == "ok"

    assert minted_when_asked == [0]
    assert len(details(rig)) == 1


async def test_token_serves_other_http_clients(rig: Rig, era: str) -> None:
    Bank = bank_of(rig)
    shown: list[str] = []

    @rig.server.tool()
    async def transfer(right: Bank) -> str:
        token, headers = await right.token("post", f"{BANK}/v1/transfers", b"{}")
        shown.append(repr(await right.token("POST", f"{BANK}/v1/transfers", b"{}")))
        assert right.last_grant is not None
        return f"{headers['Authorization'] == 'DPoP ' + token} {sorted(headers)}"

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("transfer")) == "True ['Authorization', 'DPoP']"
    assert shown == ["Presented(…)"]


async def test_a_refused_credential_is_told_as_a_refusal(rig: Rig, era: str) -> None:
    Bank = bank_of(rig)

    @rig.server.tool()
    async def transfer(right: Bank) -> str:
        rig.fake.instead["token"] = [lambda _: refused("plan", 403, ref="7Q2K")]
        await right.token("POST", f"{BANK}/v1/elsewhere")
        return "sent"

    @rig.server.tool()
    async def careful(right: Bank) -> str:
        rig.fake.instead["token"] = [lambda _: refused("plan", 403, ref="7Q2K")]
        try:
            await right.token("POST", f"{BANK}/v1/elsewhere")
        except RefusedError as no:
            return f"not now: {no.code}"
        return "sent"

    async with rig.guarded(era) as (client, _):
        result = await client.call_tool("transfer")
        assert text_of(await client.call_tool("careful")) == "not now: plan"

    assert text_of(result) == "refused: plan. ref 7Q2K"
    assert result.meta is not None
    assert result.meta[META_REFUSAL]["code"] == "plan"
    assert [rig.fake.of(tool)[0].outcome for tool in ("transfer", "careful")] == ["failed", "done"]


async def test_the_handle_is_dead_after_the_call(rig: Rig, era: str) -> None:
    Bank = bank_of(rig)
    kept: list[Credential] = []
    tasks: list[asyncio.Task[str]] = []

    async def later(right: Credential, over: asyncio.Event) -> str:
        await over.wait()
        try:
            await right.token("GET", BANK)
        except RefusedError as no:
            return str(no)
        return "minted"

    over = asyncio.Event()

    @rig.server.tool()
    async def leave(right: Bank) -> str:
        kept.append(right)
        tasks.append(asyncio.create_task(later(right, over)))
        await right.token("GET", BANK)
        return "left"

    async with rig.guarded(era) as (client, _):
        await client.call_tool("leave")
        over.set()
        told = await tasks[0]

    assert "closed" in told
    assert "deferred" in told
    assert len(details(rig)) == 1


async def test_the_handle_serves_no_other_step(rig: Rig, era: str) -> None:
    Bank = bank_of(rig)
    kept: list[Credential] = []
    release = asyncio.Event()
    ready = asyncio.Event()

    @rig.server.tool()
    async def lend(right: Bank) -> str:
        kept.append(right)
        ready.set()
        await release.wait()
        return "lent"

    @rig.server.tool()
    async def borrow() -> str:
        try:
            await kept[0].token("GET", BANK)
        except RefusedError as no:
            return no.code
        return "minted"

    async with rig.guarded(era) as (client, _):
        lending = asyncio.create_task(client.call_tool("lend"))
        await ready.wait()
        assert text_of(await client.call_tool("borrow")) == "no_step"
        release.set()
        await lending

    assert details(rig) == []


async def test_a_tool_called_inside_a_tool_gets_no_credential(rig: Rig, era: str) -> None:
    Bank = bank_of(rig)

    @rig.server.tool()
    async def inner(right: Bank) -> str:
        return "in"

    @rig.server.tool()
    async def outer() -> str:
        return str(await rig.server.call_tool("inner", {}))

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("inner")) == "in"
        assert (await client.call_tool("outer")).is_error


async def test_a_plain_function_uses_the_same_handle(
    rig: Rig, arrived: list[httpx2.Request], bank: httpx2.MockTransport, era: str
) -> None:
    @rig.server.tool()
    def transfer(right: bank_of(rig, sync.Credential)) -> str:  # type: ignore[valid-type]
        token, _ = right.token_sync("GET", f"{BANK}/v1/accounts")
        with httpx2.Client(auth=right, base_url=BANK, transport=bank) as http:
            return http.post("/v1/transfers", json={"cents": 5}).text + str(len(token) > 0)

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("transfer")) == "okTrue"

    assert [each["method"] for each in details(rig)] == ["GET", "POST"]
    assert arrived[0].headers["Authorization"].startswith("DPoP ")


async def test_a_sync_client_in_an_async_tool_is_told_what_to_do(
    rig: Rig, bank: httpx2.MockTransport, era: str
) -> None:
    Bank = bank_of(rig)

    @rig.server.tool()
    async def transfer(right: Bank) -> str:
        with (
            httpx2.Client(auth=right, base_url=BANK, transport=bank) as http,
            pytest.raises(ConfigurationError),
        ):
            http.post("/v1/transfers", json={})
        return "told"

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("transfer")) == "told"


async def test_the_context_of_the_tool_is_still_its_own(rig: Rig, era: str) -> None:
    Bank = bank_of(rig)

    async def who(right: Bank, ctx: Any) -> str:
        return str(ctx.request_context.protocol_version)

    who.__annotations__["ctx"] = FastMCPContext if rig.sdk == "fastmcp" else Context
    rig.server.tool()(who)

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("who")) == client.protocol_version
