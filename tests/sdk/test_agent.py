"""The agent's side: intents, the session hook, and servers that are agents of their own clients."""

import json
from typing import Annotated, Any
from urllib.parse import parse_qs

import anyio
import pytest
from mcp import Client, MCPError
from mcp.server.mcpserver import MCPServer, Resolve, Sample
from mcp_types import (
    HEADER_MISMATCH,
    CallToolResult,
    CreateMessageResult,
    InputRequiredResult,
    SamplingMessage,
    TextContent,
)
from tests.sdk.test_client_fakes import AGENT, SERVER, lost, refused
from tests.sdk.test_mcp_rig import ERAS, Rig, text_of

from stepwrit.agent import bound_nonce
from stepwrit.digest import canonical
from stepwrit.errors import ConfigurationError, RefusedError
from stepwrit.lineage import current_step
from stepwrit.mcp import guard
from stepwrit.wire import META_REFUSAL, META_STEP, CeilingSpec


@pytest.fixture
def rig() -> Rig:
    made = Rig()

    @made.server.tool()
    async def transfer(amount: int) -> str:
        return f"sent {amount} in round {current_step().round}"

    return made


def forms(rig: Rig) -> list[dict[str, list[str]]]:
    return [parse_qs(request.body.decode()) for verb, request in rig.fake.seen if verb == "token"]


# --- intents


async def test_a_host_says_what_went_into_a_call_and_nothing_when_it_does_not_know(rig: Rig) -> None:
    async with rig.agent.intent("id-token", purpose="pay", tools=["ledger/transfer"]) as intent:
        await intent.open("ledger", "transfer", {"amount": 1})
        await intent.open("ledger", "transfer", {"amount": 2}, influence=["stp_1"])
        await intent.open("ledger", "transfer", {"amount": 3}, influence=[])
    assert [
        json.loads(request.body).get("influence") for verb, request in rig.fake.seen if verb == "open"
    ] == [
        None,
        ["stp_1"],
        [],
    ]


async def test_an_intent_says_what_the_person_wants_and_ends_with_the_block(rig: Rig) -> None:
    async with rig.agent.intent(
        "id-token", purpose="pay invoice 42", tools=["ledger/transfer"], ttl=600
    ) as intent:
        assert (intent.txn, intent.ref, intent.origin, intent.proof) == (
            "txn_1",
            "REFROOT",
            "human",
            "presented",
        )

    (form,) = forms(rig)
    assert form["subject_token"] == ["id-token"]
    assert form["audience"] == ["prod.example"]
    exp = int(rig.fake.clock.now()) + 600
    assert form["request_details"] == [
        canonical(
            {
                "budget": {},
                "ceiling": {"impact": "high", "tools": ["ledger/transfer"]},
                "exp": exp,
                "purpose": "pay invoice 42",
                "v": 1,
            }
        ).decode()
    ]
    assert rig.fake.rows[intent.step].outcome == "done"


async def test_an_intent_ends_as_its_block_ended(rig: Rig) -> None:
    with pytest.raises(ZeroDivisionError):
        async with rig.intent() as failed:
            _ = 1 / 0
    with anyio.CancelScope() as scope:
        async with rig.intent() as cancelled:
            scope.cancel()
            await anyio.sleep(0)

    assert rig.fake.rows[failed.step].outcome == "failed"
    assert rig.fake.rows[cancelled.step].outcome == "cancelled"


async def test_a_block_survives_a_broker_that_cannot_close_it(rig: Rig) -> None:
    async with rig.intent():
        rig.fake.instead["close"] = [lost()] * 4

    assert rig.fake.verbs().count("close") == 4


async def test_a_refused_intent_raises(rig: Rig) -> None:
    async with rig.intent():
        pass
    rig.fake.instead["token"] = [lambda _: refused("human_proof", 403)]

    with pytest.raises(RefusedError) as no:
        async with rig.intent():
            pytest.fail("the block must not run")
    assert no.value.code == "human_proof"


async def test_a_trigger_names_itself_and_no_person(rig: Rig) -> None:
    async with rig.agent.trigger_intent(purpose="nightly", tools=["ledger/report"], cause="stp_9") as intent:
        assert (intent.origin, intent.proof) == ("server", None)

    (form,) = forms(rig)
    assert form["subject_token"] == [f'{{"sub": "{AGENT}"}}']
    assert '"cause":"stp_9"' in form["request_details"][0]
    assert '"impact":"low"' in form["request_details"][0]


def test_the_bound_nonce_binds_each_of_its_parts() -> None:
    ceiling = CeilingSpec(tools=("ledger/transfer",))
    nonce = bound_nonce(AGENT, ceiling, "pay", 1_800_000_900)

    assert nonce == bound_nonce(AGENT, CeilingSpec(tools=("ledger/transfer",)), "pay", 1_800_000_900)
    others = {
        bound_nonce(SERVER, ceiling, "pay", 1_800_000_900),
        bound_nonce(AGENT, CeilingSpec(tools=("ledger/*",)), "pay", 1_800_000_900),
        bound_nonce(AGENT, CeilingSpec(tools=("ledger/transfer",), impact="low"), "pay", 1_800_000_900),
        bound_nonce(AGENT, ceiling, "steal", 1_800_000_900),
        bound_nonce(AGENT, ceiling, "pay", 1_800_000_901),
    }
    assert len(others | {nonce}) == 6


# --- the hook


@pytest.mark.parametrize("era", ERAS)
async def test_a_bare_session_is_guarded_too(rig: Rig, era: str) -> None:
    async with rig.client(era) as client, rig.intent() as intent:
        intent.guard(client.session, "ledger")
        result = await client.session.call_tool("transfer", {"amount": 5})

    assert text_of(result) == "sent 5 in round 1"


async def test_the_hook_is_gone_after_the_intent(rig: Rig) -> None:
    async with rig.client("2026-07-28") as client:
        async with rig.intent() as intent:
            intent.guard(client)
            assert not (await client.call_tool("transfer", {"amount": 5})).is_error
        assert "no_step" in text_of(await client.call_tool("transfer", {"amount": 5}))


async def test_a_session_is_guarded_once(rig: Rig) -> None:
    async with rig.guarded("2026-07-28") as (client, intent):
        with pytest.raises(ConfigurationError, match="already"):
            intent.guard(client)


async def test_a_client_that_does_not_know_its_server_is_asked_for_it(rig: Rig) -> None:
    async with rig.client("2026-07-28") as client, rig.intent() as intent:
        with pytest.raises(ConfigurationError, match="server="):
            intent.guard(client.session)
        intent.guard(client.session, server="https://ledger.example/mcp")
        await client.call_tool("transfer", {"amount": 5})

    assert rig.fake.of("transfer")[0].server == "https://ledger.example/mcp"


async def test_the_url_of_a_client_names_its_server(rig: Rig) -> None:
    class Elsewhere:
        server = "https://ledger.example/mcp"

        def __init__(self, session: object) -> None:
            self.session = session

    async with rig.client("2026-07-28") as client, rig.intent() as intent:
        intent.guard(Elsewhere(client.session))
        await client.call_tool("transfer", {"amount": 5})

    assert rig.fake.of("transfer")[0].server == "https://ledger.example/mcp"


async def test_a_refused_step_is_a_result_that_a_model_may_see(rig: Rig) -> None:
    async with rig.guarded("2026-07-28") as (client, _):
        rig.fake.instead["open"] = [lambda _: refused("ceiling", 403, ref="7Q2K")]
        result = await client.call_tool("transfer", {"amount": 5})

    assert result.is_error
    assert text_of(result) == "refused: ceiling. ref 7Q2K"
    assert result.meta is not None
    assert result.meta[META_REFUSAL]["code"] == "ceiling"
    assert "accept" not in rig.fake.verbs()


async def test_a_refused_step_is_raised_for_hosts_that_want_it(rig: Rig) -> None:
    async with rig.guarded("2026-07-28", on_refusal="raise") as (client, _):
        assert not (await client.call_tool("transfer", {"amount": 5})).is_error
        rig.fake.instead["open"] = [lambda _: refused("ceiling", 403)]
        with pytest.raises(RefusedError):
            await client.call_tool("transfer", {"amount": 5})


async def test_a_broker_that_is_down_is_a_result_too(rig: Rig) -> None:
    async with rig.guarded("2026-07-28") as (client, _):
        rig.fake.instead["open"] = [lost(sent=False)] * 4
        assert text_of(await client.call_tool("transfer", {"amount": 5})).startswith("refused: unavailable.")


async def test_numbers_that_are_not_exact_are_refused_before_anything_is_sent(rig: Rig) -> None:
    async with rig.guarded("2026-07-28") as (client, _):
        assert not (await client.call_tool("transfer", {"amount": 2**53 - 1})).is_error
        result = await client.call_tool("transfer", {"amount": 2**53})

    assert "invalid_arguments" in text_of(result)
    assert rig.fake.verbs().count("open") == 1


async def test_the_callers_own_meta_is_kept(rig: Rig) -> None:
    from mcp.server.mcpserver import Context

    @rig.server.tool()
    async def show(ctx: Context) -> str:
        meta = ctx.request_context.meta or {}
        return str(
            sorted(key for key in meta if "modelcontextprotocol" not in key and key != "progressToken")
        )

    async with rig.guarded("2026-07-28") as (client, _):
        result = await client.call_tool("show", meta={"com.example/trace": "1"})  # type: ignore[typeddict-unknown-key]

    assert text_of(result) == str(sorted(["com.example/trace", META_STEP]))


class Scripted:
    """A session that answers by a script; every call it got."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[dict[str, Any]] = []

    async def call_tool(self, name: str, arguments: Any = None, **options: Any) -> Any:
        self.calls.append(options)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


DONE = CallToolResult(content=[TextContent(type="text", text="done")])


async def test_a_call_that_the_transport_turned_away_is_resent_as_the_same_step(rig: Rig) -> None:
    session = Scripted(MCPError(code=HEADER_MISMATCH, message="stale"), DONE, DONE)
    async with rig.intent() as intent:
        intent.guard(session, "ledger")
        with pytest.raises(MCPError):
            await session.call_tool("transfer", {"amount": 5})
        await session.call_tool("transfer", {"amount": 5})
        await session.call_tool("transfer", {"amount": 5})

    metas = [call["meta"][META_STEP] for call in session.calls]
    assert metas[0] == metas[1]
    assert metas[2] != metas[1]
    assert len(rig.fake.of("transfer")) == 2


async def test_rounds_of_calls_alike_do_not_mix_up(rig: Rig) -> None:
    session = Scripted(
        InputRequiredResult(request_state="a"), InputRequiredResult(request_state="b"), DONE, DONE
    )
    async with rig.intent() as intent:
        intent.guard(session, "ledger")
        await session.call_tool("transfer", {"amount": 5})
        await session.call_tool("transfer", {"amount": 5})
        await session.call_tool("transfer", {"amount": 5}, request_state="b")
        await session.call_tool("transfer", {"amount": 5}, request_state="a")

    first, second = rig.fake.of("transfer")
    fresh = [request.path for verb, request in rig.fake.seen if verb == "fresh"]
    assert fresh == [f"/v1/steps/{second.id}/token", f"/v1/steps/{first.id}/token"]


async def test_rounds_that_nobody_comes_back_to_are_forgotten(rig: Rig) -> None:
    session = Scripted(*(InputRequiredResult(request_state=str(n)) for n in range(300)), DONE)
    async with rig.intent() as intent:
        intent.guard(session, "ledger")
        for _ in range(300):
            await session.call_tool("transfer", {"amount": 5})
        await session.call_tool("transfer", {"amount": 5}, request_state="0")

    assert "fresh" not in rig.fake.verbs()
    assert len(rig.fake.of("transfer")) == 301


async def test_what_an_unguarded_server_asks_for_is_seen_before_anybody_answers() -> None:
    rig = Rig()
    sampled: list[object] = []
    plain = MCPServer("plain")

    async def ask() -> Sample:
        message = SamplingMessage(role="user", content=TextContent(type="text", text="hi"))
        return Sample([message], max_tokens=5)

    @plain.tool()
    async def think(thought: Annotated[CreateMessageResult, Resolve(ask)]) -> str:
        return "thought"

    async def sample(_ctx: object, _params: object) -> CreateMessageResult:
        sampled.append(1)
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="x"), model="m")

    async with Client(plain, mode="2026-07-28", sampling_callback=sample) as client:
        assert text_of(await client.call_tool("think")) == "thought"
        assert sampled == [1]
        async with rig.intent() as intent:
            intent.guard(client)
            result = await client.call_tool("think")

    assert text_of(result).startswith("refused: no_step.")
    assert sampled == [1]


# --- a server that is a client


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("long_lived", [True, False])
async def test_a_servers_own_calls_are_steps_of_the_step_they_are_made_for(
    era: str, long_lived: bool
) -> None:
    rig = Rig(name=None)
    outside = MCPServer("rates")
    metas: list[Any] = []

    from mcp.server.mcpserver import Context

    @outside.tool()
    async def rate(ctx: Context) -> str:
        metas.append(dict(ctx.request_context.meta or {}))
        return "1.1"

    async with Client(outside, mode=era) as upstream:
        hooked = guard(upstream) if long_lived else None

        @rig.server.tool()
        async def convert() -> str:
            if not long_lived:
                current_step().guard(upstream)
            return text_of(await upstream.call_tool("rate"))

        async with rig.guarded(era) as (client, _):
            assert text_of(await client.call_tool("convert")) == "1.1"
            assert text_of(await client.call_tool("convert")) == "1.1"

        outside_of_a_step = await upstream.call_tool("rate")
        if hooked is not None:
            hooked.remove()

    converts, rates = rig.fake.of("convert"), rig.fake.of("rate")
    assert [row.parent for row in rates] == [row.id for row in converts]
    assert {(row.server, row.initiator) for row in rates} == {("rates", SERVER)}
    assert all(META_STEP in meta for meta in metas[:2])
    assert ("no_step" in text_of(outside_of_a_step)) is long_lived
    assert all(META_STEP not in meta for meta in metas[2:])


async def test_a_server_opens_a_step_for_a_call_it_makes_itself() -> None:
    rig = Rig()

    @rig.server.tool()
    async def convert() -> str:
        child = await current_step().start("rates", "rate", {"of": "EUR"})
        meta = await child.meta()
        headers = await child.headers()
        return f"{sorted(meta)} {sorted(headers)} {child.origin} {child.round}"

    async with rig.guarded("2026-07-28") as (client, _):
        result = await client.call_tool("convert")

    assert text_of(result) == f"['{META_STEP}'] ['Txn-Token'] server 1"


async def test_without_a_step_there_is_no_step() -> None:
    with pytest.raises(RefusedError) as no:
        current_step()
    assert no.value.code == "no_step"
