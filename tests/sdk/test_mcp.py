"""The server's side on both real SDKs, in both protocol eras: every call a step, every way out an end."""

import asyncio
from typing import Any

import anyio
import pytest
from fastmcp.exceptions import ToolError as FastMCPToolError
from mcp import Client, MCPError
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ElicitResult
from tests.sdk.test_client_fakes import AGENT, SERVER, FakeBroker, lost, refused
from tests.sdk.test_mcp_asking import asking
from tests.sdk.test_mcp_rig import ERAS, SDKS, Rig, text_of

from stepwrit.client import Broker
from stepwrit.digest import args_digest
from stepwrit.dpop import make_step_proof
from stepwrit.errors import IdentityUnavailable, RefusedError
from stepwrit.flow import Request, Response
from stepwrit.jws import SigningKey
from stepwrit.lineage import Step, current_step
from stepwrit.wire import META_REF, META_REFUSAL, META_STEP

pytestmark = pytest.mark.parametrize("era", ERAS)


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig(sdk: str) -> Rig:
    return Rig(sdk=sdk)


@pytest.fixture
def steps(rig: Rig) -> list[Step]:
    """Every step that the tool `transfer` ran for."""
    seen: list[Step] = []

    @rig.server.tool()
    async def transfer(amount: int) -> str:
        seen.append(current_step())
        return f"sent {amount}"

    return seen


async def test_a_call_is_accepted_run_and_closed(rig: Rig, steps: list[Step], era: str) -> None:
    async with rig.guarded(era) as (client, _):
        result = await client.call_tool("transfer", {"amount": 5})

    assert text_of(result) == "sent 5"
    assert rig.fake.verbs() == ["token", "open", "accept", "close", "close"]
    assert [row.outcome for row in rig.fake.of("transfer")] == ["done"]
    assert (steps[0].tool, steps[0].origin, steps[0].ended) == ("ledger/transfer", "model", "done")
    assert result.meta is not None
    assert result.meta[META_REF] == steps[0].ref


async def test_two_calls_are_two_steps(rig: Rig, steps: list[Step], era: str) -> None:
    async with rig.guarded(era) as (client, _):
        await client.call_tool("transfer", {"amount": 5})
        await client.call_tool("transfer", {"amount": 5})

    assert len({step.id for step in steps}) == 2


async def test_absent_arguments_are_the_empty_object(rig: Rig, era: str) -> None:
    @rig.server.tool()
    async def ping() -> str:
        return "pong"

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("ping")) == "pong"
        assert text_of(await client.call_tool("ping", {})) == "pong"


async def test_a_call_without_a_step_token_is_refused(rig: Rig, steps: list[Step], era: str) -> None:
    async with rig.guarded(era) as (client, _):
        assert not (await client.call_tool("transfer", {"amount": 5})).is_error

    async with rig.client(era) as client:
        result = await client.call_tool("transfer", {"amount": 5})

    assert result.is_error
    assert text_of(result) == "refused: no_step. ref REFUSED"
    assert len(steps) == 1


@pytest.mark.parametrize("meta", [{}, {"token": "x"}, {"token": 1, "proof": 2}, "text", ["x"]])
async def test_a_malformed_step_is_refused_and_nothing_runs(
    rig: Rig, steps: list[Step], era: str, meta: object
) -> None:
    async with rig.client(era) as client:
        result = await client.call_tool("transfer", {"amount": 5}, meta={META_STEP: meta})  # type: ignore[misc]

    assert result.is_error
    assert text_of(result) == "refused: invalid_request."
    assert steps == []
    assert rig.fake.seen == []


async def test_a_foreign_token_is_refused_here_and_reported_nowhere(
    rig: Rig, steps: list[Step], era: str
) -> None:
    stranger = FakeBroker(rig.fake.clock)
    row = stranger.add("p", "ledger", "transfer", {"amount": 5}, rig.agent.key.thumbprint, AGENT)

    async with rig.client(era) as client:
        result = await client.call_tool("transfer", {"amount": 5}, meta=carried(rig, stranger.token(row)))

    assert text_of(result) == "refused: invalid_token."
    assert "accept" not in rig.fake.verbs()
    assert steps == []


def carried(rig: Rig, token: str, key: SigningKey | None = None, **args: Any) -> Any:
    proof = make_step_proof(
        key or rig.agent.key,
        token=token,
        args=args_digest(args or {"amount": 5}),
        round=1,
        now=rig.fake.clock.now(),
        jti="j",
    )
    return {META_STEP: {"token": token, "proof": proof}}


@pytest.mark.parametrize(
    ("finding", "changes", "sent"),
    [
        ("wrong_workload", {"performer": "spiffe://prod.example/mcp/other"}, {}),
        ("arguments_changed", {"tool": "ledger/other"}, {}),
        ("arguments_changed", {"tool": "bank/transfer"}, {}),
        ("arguments_changed", {}, {"amount": 6}),
        ("invalid_arguments", {}, {"amount": 2**53}),
        ("invalid_proof", {"initiator_jkt": "x" * 43}, {}),
        ("expired", {"iat": 1_799_999_000, "exp": 1_799_999_060}, {}),
        ("invalid_token", {"issuer": "https://other.example"}, {}),
        ("invalid_token", {"trust_domain": "other.example"}, {}),
    ],
)
async def test_what_is_ours_but_wrong_is_refused_and_on_record(
    rig: Rig, steps: list[Step], era: str, finding: str, changes: dict[str, Any], sent: dict[str, int]
) -> None:
    row = rig.fake.add("p", "ledger", "transfer", {"amount": 5}, rig.agent.key.thumbprint, AGENT)
    other = rig.fake.add("p", "ledger", "transfer", {"amount": 5}, rig.agent.key.thumbprint, AGENT)
    async with rig.client(era) as client:
        right = await client.call_tool("transfer", {"amount": 5}, meta=carried(rig, rig.fake.token(other)))
        assert not right.is_error

        meta = carried(rig, rig.fake.token(row, **changes))
        result = await client.call_tool("transfer", sent or {"amount": 5}, meta=meta)

    assert text_of(result) == f"refused: {finding}. ref REPORTED"
    assert rig.fake.bodies("accept")[-1]["finding"] == finding
    assert len(steps) == 1


async def test_a_stolen_step_token_without_its_key_runs_nothing(
    rig: Rig, steps: list[Step], era: str
) -> None:
    row = rig.fake.add("p", "ledger", "transfer", {"amount": 5}, rig.agent.key.thumbprint, AGENT)
    token = rig.fake.token(row)
    async with rig.client(era) as client:
        stolen = await client.call_tool(
            "transfer", {"amount": 5}, meta=carried(rig, token, SigningKey.generate())
        )
        right = await client.call_tool("transfer", {"amount": 5}, meta=carried(rig, token))

    assert text_of(stolen) == "refused: invalid_proof. ref REPORTED"
    assert text_of(right) == "sent 5"
    assert len(steps) == 1


async def test_a_token_runs_the_body_once(rig: Rig, steps: list[Step], era: str) -> None:
    row = rig.fake.add("p", "ledger", "transfer", {"amount": 5}, rig.agent.key.thumbprint, AGENT)
    token = rig.fake.token(row)
    async with rig.client(era) as client:
        assert not (await client.call_tool("transfer", {"amount": 5}, meta=carried(rig, token))).is_error
        again = await client.call_tool("transfer", {"amount": 5}, meta=carried(rig, token))

    assert text_of(again) == "refused: already_done. ref REFUSED"
    assert len(steps) == 1


async def test_a_performer_pattern_covers_us(rig: Rig, steps: list[Step], era: str) -> None:
    rig.fake.performer = "spiffe://prod.example/mcp/*"
    async with rig.guarded(era) as (client, _):
        assert not (await client.call_tool("transfer", {"amount": 5})).is_error
    rig.fake.performer = "spiffe://prod.example/mc/*"
    async with rig.guarded(era) as (client, _):
        assert "wrong_workload" in text_of(await client.call_tool("transfer", {"amount": 5}))
    assert len(steps) == 1


async def test_a_broker_that_is_down_is_a_refusal_and_no_crash(rig: Rig, steps: list[Step], era: str) -> None:
    async with rig.guarded(era) as (client, _):
        assert not (await client.call_tool("transfer", {"amount": 5})).is_error
        rig.fake.instead["accept"] = [lost(sent=False)] * 4
        result = await client.call_tool("transfer", {"amount": 5})

    assert text_of(result).startswith("refused: unavailable.")
    assert len(steps) == 1


async def test_a_refused_accept_shows_the_model_no_policy_text(rig: Rig, steps: list[Step], era: str) -> None:
    async with rig.guarded(era) as (client, _):
        rig.fake.instead["accept"] = [lambda _: refused("policy", 403, ref="7Q2K", retry_after=12)]
        result = await client.call_tool("transfer", {"amount": 5})

    assert text_of(result) == "refused: policy. retry in 12 s. ref 7Q2K"
    assert result.meta is not None
    assert result.meta[META_REFUSAL]["reason"] == "because the policy text says so"
    assert steps == []


async def test_a_tool_that_fails_ends_its_step_as_failed(rig: Rig, era: str) -> None:
    @rig.server.tool()
    async def crash() -> str:
        raise RuntimeError("secret detail")

    error = FastMCPToolError if rig.sdk == "fastmcp" else ToolError

    @rig.server.tool()
    async def fail() -> str:
        raise error("no such account")

    @rig.server.tool()
    async def protocol() -> str:
        raise MCPError(code=-32000, message="no")

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("crash")) == "Error executing tool crash"
        assert "no such account" in text_of(await client.call_tool("fail"))
        if rig.sdk == "fastmcp":  # it tells the client of no protocol error that a tool raised
            assert (await client.call_tool("protocol")).is_error
        else:
            with pytest.raises(MCPError, match="no"):
                await client.call_tool("protocol")

    assert [rig.fake.of(tool)[0].outcome for tool in ("crash", "fail", "protocol")] == ["failed"] * 3


async def test_a_close_that_is_lost_for_good_does_not_lose_the_result(
    rig: Rig, steps: list[Step], era: str
) -> None:
    async with rig.guarded(era) as (client, _):
        rig.fake.instead["close"] = [lost()] * 4
        assert text_of(await client.call_tool("transfer", {"amount": 5})) == "sent 5"


async def test_a_call_that_times_out_is_cancelled_and_closed(rig: Rig, era: str) -> None:
    ended = anyio.Event()

    @rig.server.tool()
    async def slow() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return ""

    async with rig.guarded(era) as (client, _):
        with pytest.raises(MCPError):
            await client.call_tool("slow", read_timeout_seconds=0.05)
        with anyio.fail_after(5):
            await ended.wait()
            while rig.fake.of("slow")[0].outcome is None:
                await anyio.sleep(0)

    assert rig.fake.of("slow")[0].outcome == "cancelled"


async def test_a_long_call_beats_and_a_revoked_step_is_over(sdk: str, era: str) -> None:
    """Where its body is let go on: it then hears of the end by every use of its step."""
    gate: asyncio.Queue[None] = asyncio.Queue()

    async def beat(seconds: float) -> None:
        assert seconds == 20
        await gate.get()

    rig = Rig(beat=beat, sdk=sdk, stop_ended=False)
    told: list[str | None] = []

    @rig.server.tool()
    async def long() -> str:
        step = current_step()
        for state in ("accepted", "revoked"):
            rig.fake.of("long")[0].state = state
            gate.put_nowait(None)
            while rig.fake.verbs().count("heartbeat") < len(told) + 1:
                await anyio.sleep(0)
            await anyio.sleep(0)
            told.append(step.ended)
        return "over"

    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("long")) == "over"

    assert told == [None, "revoked"]


async def test_calls_at_the_same_time_see_their_own_step(rig: Rig, era: str) -> None:
    inside = 0
    seen: dict[int, list[str]] = {}

    @rig.server.tool()
    async def meet(n: int) -> str:
        nonlocal inside
        first = current_step().id
        inside += 1
        while inside < 4:
            await anyio.sleep(0)
        seen[n] = [first, current_step().id]
        return current_step().id

    async with rig.guarded(era) as (client, _), anyio.create_task_group() as group:
        for n in range(4):
            group.start_soon(client.call_tool, "meet", {"n": n})

    assert all(before == after for before, after in seen.values())
    assert len({after for _, after in seen.values()}) == 4
    by_args = {row.args["n"]: row.id for row in rig.fake.of("meet")}
    assert {n: ids[0] for n, ids in seen.items()} == by_args


async def test_code_that_outlives_its_call_has_no_step_any_more(rig: Rig, era: str) -> None:
    tasks: list[asyncio.Task[str]] = []

    async def later(step: Step) -> str:
        while step.ended is None:
            await asyncio.sleep(0)
        try:
            await current_step().start("ledger", "other", {})
        except RefusedError as error:
            return str(error)
        return "opened"

    @rig.server.tool()
    async def leave() -> str:
        tasks.append(asyncio.create_task(later(current_step())))
        return "left"

    async with rig.guarded(era) as (client, _):
        await client.call_tool("leave")
        assert "closed" in await tasks[0]

    assert rig.fake.of("other") == []


# --- rounds


async def test_an_elicitation_keeps_the_step_and_is_a_step_of_its_own(rig: Rig, era: str) -> None:
    rounds = asking(rig)

    async with rig.guarded(era) as (client, intent):
        result = await client.call_tool("pay", {"amount": 5})

    assert text_of(result) == "paid 5 True"
    assert rig.asked == ["Pay 5?"]
    (step,) = rig.fake.of("pay")
    (asked,) = rig.fake.of("elicitation")
    assert (asked.parent, asked.server, asked.initiator) == (step.id, "client", SERVER)
    assert "Pay" not in str(asked.args)
    assert (step.parent, step.outcome) == (intent.step, "done")
    assert rounds == ([2] if era == "2026-07-28" else [1])


async def test_each_round_has_its_own_token_also_when_the_person_is_slow(rig: Rig, era: str) -> None:
    asking(rig)

    async def slow(_ctx: object, params: Any) -> ElicitResult:
        rig.fake.clock.at += 300  # five times a token's life
        return rig.answer

    rig.elicited = slow  # type: ignore[method-assign]
    async with rig.guarded(era) as (client, _):
        assert text_of(await client.call_tool("pay", {"amount": 5})) == "paid 5 True"

    act = ["accept", "heartbeat", "close"]  # the form, by the client
    modern = ["open", "accept", "open", "wait", *act, "fresh", "accept", "close"]
    legacy = ["open", "accept", "open", *act, "close"]
    assert rig.fake.verbs()[1:-1] == (modern if era == "2026-07-28" else legacy)


async def test_a_refused_question_does_not_reach_the_person(rig: Rig, era: str) -> None:
    rounds = asking(rig)

    async with rig.guarded(era) as (client, intent):
        child = await intent.open("ledger", "pay", {"amount": 5})
        rig.fake.instead["open"] = [lambda _: refused("limit", 403, ref="7Q2K")]
        intent.unguard()
        result = await client.call_tool("pay", {"amount": 5}, meta=await child.meta())  # type: ignore[arg-type]

    assert text_of(result) == "refused: limit. ref 7Q2K"
    assert (rig.asked, rounds) == ([], [])
    assert rig.fake.of("pay")[0].outcome == "failed"


async def test_a_declined_question_ends_the_step(rig: Rig, era: str) -> None:
    rounds = asking(rig)
    rig.answer = ElicitResult(action="decline")

    async with rig.guarded(era) as (client, _):
        assert (await client.call_tool("pay", {"amount": 5})).is_error

    assert rounds == []
    assert rig.fake.of("pay")[0].outcome == "failed"


@pytest.mark.parametrize("sdk", ["mcp"])  # FastMCP lets no tool raise it
# --- start and end


async def test_a_server_starts_ready_and_lets_go_at_its_end(rig: Rig, era: str) -> None:
    closed: list[str] = []

    class Port:
        async def send(self, request: Request) -> Response:
            return rig.fake.answer(SERVER, request)

        async def close(self) -> None:
            closed.append("closed")

    server = rig.server_of(Broker(Port(), SERVER, rig.fake.parts()), lifespan=True)

    @server.tool()
    async def ping() -> str:
        return current_step().id

    async with Client(rig.target(server), mode=era) as client, rig.intent() as intent:
        intent.guard(client, "ledger")
        assert text_of(await client.call_tool("ping")).startswith("stp_")
        assert closed == []

    assert closed == ["closed"]


async def test_a_server_without_identity_refuses_and_does_not_crash(rig: Rig, era: str) -> None:
    class Nobody:
        known = False
        expires_at = None

        def start(self) -> None:
            pass

        def wait(self, seconds: float) -> None:
            raise IdentityUnavailable("no X.509-SVID from unix:///none.sock")

        @property
        def spiffe_id(self) -> str:
            raise IdentityUnavailable("no X.509-SVID")

        def stop(self) -> None:
            pass

    broker = Broker(rig.fake.sent_by(SERVER), Nobody(), rig.fake.parts())
    server = rig.server_of(broker)

    @server.tool()
    async def ping() -> str:
        return "pong"

    async with Client(rig.target(server), mode=era) as client, rig.intent() as intent:
        intent.guard(client, "ledger")
        assert text_of(await client.call_tool("ping")) == "refused: unavailable."
