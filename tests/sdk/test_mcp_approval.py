"""A guarded tool whose own step must be signed: the client gets the page, and the tool goes on after it."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from mcp import MCPError, UrlElicitationRequiredError
from mcp.server import MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp_types import (
    URL_ELICITATION_REQUIRED,
    ElicitRequest,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
)
from pydantic import BaseModel

from stepwrit import testing
from stepwrit._approving import is_page
from stepwrit._testing_kit import Era, Kit
from stepwrit.errors import RefusedError
from stepwrit.mcp import Stepwrit, current_step

stepwrit = testing.stepwrit
ERAS: list[Era] = ["2026-07-28", "2025-11-25"]
both_eras = pytest.mark.parametrize("era", ERAS)
MODERN: Era = "2026-07-28"
PAGE = "https://broker.stepwrit.invalid/approvals/apr_"


class Sure(BaseModel):
    sure: bool


def converter(runs: list[str], *, wait: float = 0.05) -> MCPServer:
    """Its tool needs the rate of another server, for which somebody must sign."""
    server = MCPServer("ledger", extensions=[Stepwrit.from_env(wait_for_approval=wait)])

    @server.tool()
    async def convert(amount: int) -> str:
        runs.append("began")
        child = await current_step().start("rates", "rate", {"of": "EUR"})
        runs.append(child.step)
        await child.meta()
        return f"converted {amount}"

    return server


@pytest.fixture
def kit(stepwrit: Kit) -> Kit:
    stepwrit.workload("rates")
    stepwrit.need_approval("rates/rate")
    return stepwrit


class Person:
    """What the client shows to its person, and what they do before they answer. does: None for nothing."""

    def __init__(self, does: Callable[[], object] | None = None, action: Any = "accept") -> None:
        self.does, self.action = does, action
        self.seen: list[Any] = []

    async def __call__(self, _ctx: object, params: Any) -> ElicitResult:
        self.seen.append(params)
        if isinstance(params, ElicitRequestURLParams):
            if self.does is not None:
                self.does()
            return ElicitResult(action=self.action)
        return ElicitResult(action="accept", content={"sure": True})


async def call(kit: Kit, server: MCPServer, era: Era, person: Person) -> Any:
    """The tool's result, after the client did what its protocol asks for."""
    async with kit.client(server, era=era, elicitation_callback=person) as client:
        try:
            return await client.call_tool("convert", {"amount": 5})
        except MCPError as error:
            if (era, error.code) != ("2025-11-25", URL_ELICITATION_REQUIRED):
                raise
            for each in UrlElicitationRequiredError.from_error(error.error).elicitations:
                await person(None, each)
            return await client.call_tool("convert", {"amount": 5})


def text(result: Any) -> str:
    return " ".join(each.text for each in result.content)


@both_eras
async def test_the_page_goes_to_the_client_and_the_call_goes_on_once_it_is_signed(kit: Kit, era: Era) -> None:
    runs: list[str] = []
    person = Person(lambda: kit.approve("rates/rate"))

    result = await call(kit, converter(runs), era, person)

    assert text(result) == "converted 5"
    [page] = person.seen
    assert page.url.startswith(PAGE)
    assert page.message == "A person must sign rates/rate first, on the broker's page."
    assert (page.elicitation_id is not None) == (era == "2025-11-25")
    assert runs[:2] == ["began", "began"]
    kinds = kit.ledger.kinds()
    assert (kinds.count("asked"), kinds.count("signed"), kinds.count("opened")) == (1, 1, 2)
    assert kit.ledger.of("accepted")[0].step == kit.ledger.of("waiting")[0].step


@both_eras
async def test_an_accept_without_a_signature_gives_nothing(kit: Kit, era: Era) -> None:
    runs: list[str] = []
    person = Person()

    result = await call(kit, converter(runs), era, person)

    assert result.is_error
    assert text(result).startswith(f"refused: authorization_pending. a person must sign at {PAGE}")
    assert runs == ["began", "began"]
    assert len(person.seen) == 1  # nobody is asked again and again
    assert "signed" not in kit.ledger.kinds()
    with pytest.raises(LookupError):
        kit.approve("rates/rate")  # the call is over: nothing waits any more


@both_eras
async def test_a_denial_on_the_page_is_a_denial_whatever_the_client_answers(kit: Kit, era: Era) -> None:
    person = Person(lambda: kit.deny("rates/rate"))
    result = await call(kit, converter([]), era, person)
    assert "refused: access_denied." in text(result)


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_who_does_not_open_the_page_is_not_waited_for(kit: Kit, action: str) -> None:
    runs: list[str] = []
    result = await call(kit, converter(runs, wait=600), MODERN, Person(action=action))
    assert "refused: authorization_pending." in text(result)
    assert runs == ["began", "began"]


async def test_who_declines_here_may_still_have_signed_there(kit: Kit) -> None:
    result = await call(kit, converter([]), MODERN, Person(kit.approve, action="decline"))
    assert text(result) == "converted 5"


@both_eras
async def test_a_client_that_opens_no_pages_gets_the_address_in_the_refusal(kit: Kit, era: Era) -> None:
    async with kit.client(converter([]), era=era) as client:
        result = await client.call_tool("convert", {"amount": 5})
    assert result.is_error
    assert f"a person must sign at {PAGE}" in text(result)


async def test_what_earlier_rounds_answered_is_not_asked_again(kit: Kit) -> None:
    server, asked = MCPServer("ledger", extensions=[Stepwrit.from_env(wait_for_approval=1)]), list[bool]()

    async def sure() -> Elicit[Sure]:
        return Elicit("really?", Sure)

    @server.tool()
    async def convert(amount: int, answer: Annotated[Sure, Resolve(sure)]) -> str:
        asked.append(answer.sure)
        await (await current_step().start("rates", "rate", {"of": "EUR"})).meta()
        return f"converted {amount}"

    person = Person(lambda: kit.approve("rates/rate"))
    result = await call(kit, server, MODERN, person)

    assert text(result) == "converted 5"
    assert [type(each).__name__ for each in person.seen] == [
        "ElicitRequestFormParams",
        "ElicitRequestURLParams",
    ]
    assert asked == [True, True]


async def test_another_worker_goes_on_with_what_the_first_one_asked_for(kit: Kit) -> None:
    """2026-07-28: what is needed travels, sealed, with the client."""
    server = converter([])

    def elsewhere() -> None:
        kit.approve("rates/rate")
        server._extensions[0].broker.pending._calls.clear()  # type: ignore[attr-defined]

    assert text(await call(kit, server, MODERN, Person(elsewhere))) == "converted 5"
    assert kit.ledger.kinds().count("asked") == 1


async def test_two_approvals_in_one_call_are_two_pages(kit: Kit) -> None:
    server = MCPServer("ledger", extensions=[Stepwrit.from_env(wait_for_approval=1)])

    @server.tool()
    async def convert(amount: int) -> str:
        started = [await current_step().start("rates", "rate", {"of": of}) for of in ("EUR", "USD")]
        for each in started:
            await each.meta()
        return f"converted {amount}"

    person = Person(lambda: kit.approve("rates/rate"))
    result = await call(kit, server, MODERN, person)
    assert text(result) == "converted 5"
    assert len({each.url for each in person.seen}) == 2


@both_eras
async def test_a_tool_that_handles_it_itself_hands_nothing_over(kit: Kit, era: Era) -> None:
    server = MCPServer("ledger", extensions=[Stepwrit.from_env()])

    @server.tool()
    async def convert(amount: int) -> str:
        try:
            await current_step().start("rates", "rate", {"of": "EUR"})
        except RefusedError as no:
            return f"later: {no.code}"
        return str(amount)

    person = Person()
    assert text(await call(kit, server, era, person)) == "later: authorization_pending"
    assert person.seen == []


# --- pages of others


def sends(url: str, era: Era) -> MCPServer:
    """An unguarded server, which asks for whatever it likes."""
    server = MCPServer("ledger")
    page = ElicitRequestURLParams(message="please", url=url, elicitation_id="1")

    @server.tool()
    async def convert(amount: int) -> InputRequiredResult:
        if era == "2025-11-25":
            raise UrlElicitationRequiredError([page])
        return InputRequiredResult(input_requests={"x": ElicitRequest(params=page)}, request_state="s")

    return server


@both_eras
@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/approvals/apr_1", "https://broker.stepwrit.invalid.evil.example/approvals/apr_1",
        "https://broker.stepwrit.invalid@evil.example/approvals/apr_1", "javascript:alert(1)",
        "https://broker.stepwrit.invalid/approvals/apr_1?next=https://evil.example",
        "https://broker.stepwrit.invalid/approvals/apr_1/../../sign-out", "http://broker.stepwrit.invalid/approvals/apr_1",
    ],
)  # fmt: skip
async def test_a_page_that_is_not_our_brokers_does_not_reach_the_person(kit: Kit, era: Era, url: str) -> None:
    from mcp import Client

    kit.workload("ledger")
    good = f"{PAGE}1"
    modes = {"2026-07-28": "2026-07-28", "2025-11-25": "legacy"}
    for each, is_refused in ((url, True), (good, False)):
        person, server = Person(action="decline"), sends(each, era)
        async with (
            Client(
                server, mode=modes[era], elicitation_callback=person, input_required_max_rounds=1
            ) as client,
            kit.agent().intent(
                kit.broker.id_token(agent="spiffe://test.internal/agent"), purpose="t", tools=["*"]
            ) as intent,
        ):
            intent.guard(client, "ledger")
            try:
                result = await client.call_tool("convert", {"amount": 5})
            except Exception:  # noqa: BLE001  the page was handed on, and such a server never comes to an end
                assert not is_refused
            else:
                assert is_refused
                assert "refused: no_step." in text(result)
        assert (person.seen == []) == (is_refused or era == "2025-11-25")


def test_a_page_is_an_approvals_and_nothing_else() -> None:
    issuer = "https://b.example:8444"
    assert is_page(issuer, f"{issuer}/approvals/apr_1")
    assert is_page(f"{issuer}/", f"{issuer}/approvals/apr_1")
    for url in ("", issuer, f"{issuer}/approvals", f"{issuer}/approvals/apr_", f"{issuer}/approvals/apr_1#x"):
        assert not is_page(issuer, url)
