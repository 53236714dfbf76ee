"""What a test holds in its hand: the in-memory broker, its knobs, guarded clients and resources."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import httpx2

from stepwrit import agent
from stepwrit._guard_asgi import ASGIApp
from stepwrit._testing_books import Ban, Demand, Ledger, Server, Tool
from stepwrit._testing_face import FakeBroker
from stepwrit._testing_opening import TRUST_DOMAIN
from stepwrit.client import Broker, Parts, SyncBroker
from stepwrit.errors import ConfigurationError
from stepwrit.flow import Retry
from stepwrit.guard import StepwritGuard
from stepwrit.wire import DOC_BASE, Code, Impact, PlanItem, Refusal

AGENT: Final = f"spiffe://{TRUST_DOMAIN}/agent"
Era = Literal["2026-07-28", "2025-11-25"]
_MODE: Final[dict[str, str]] = {"2026-07-28": "2026-07-28", "2025-11-25": "legacy"}
_QUICK: Final = Retry(tries=2, first_s=0.001, most_s=0.001, budget_s=1.0)


class Resource:
    """A guarded application, and ways to it. `app`: the ASGI application behind the guard."""

    def __init__(self, app: ASGIApp, audience: str) -> None:
        self.app: Final = app
        self.audience: Final = audience
        self.transport: Final = httpx2.ASGITransport(app=app)

    def client(self, auth: httpx2.Auth | None = None) -> httpx2.AsyncClient:
        """An httpx2 client that reaches only this application."""
        return httpx2.AsyncClient(transport=self.transport, base_url=self.audience, auth=auth)


class Kit:
    """The `stepwrit` fixture. Without any set-up every tool is known, of low impact and its own resource.

    broker: the in-memory broker itself. routes: origins that `resource` answers in this process.
    """

    def __init__(self) -> None:
        self.broker: Final = FakeBroker()
        self.routes: Final[dict[str, httpx2.AsyncBaseTransport]] = {}
        self.broker.registry.agents.add(AGENT)

    @property
    def ledger(self) -> Ledger:
        """What happened so far."""
        return self.broker.ledger

    # --- knobs

    def tool(
        self, name: str, *, impact: Impact = "low", plan: Sequence[str | PlanItem] | Literal["self"] = "self"
    ) -> None:
        """Register a tool, `server/tool` or `tool` of any server.

        plan: `self`, or the requests it may make: `"POST https://bank.example/v1/transfers"`, any number of
        times in a test, or a PlanItem.
        """
        items = None if isinstance(plan, str) else tuple(_item(each) for each in plan)
        full = name if "/" in name else f"*/{name}"
        self.broker.registry.tools[full] = Tool(name=full, impact=impact, plan=items)

    def refuse(
        self,
        tool: str,
        *,
        reason: Code = "policy",
        retry_after: float | None = None,
        at: Literal["open", "accept", "credential", "redeem"] = "open",
    ) -> None:
        """Refuse this tool from now on. reason: the refusal's code. retry_after: seconds. at: which verb."""
        refusal = Refusal(
            code=reason, reason="refused by the test", retry_after=retry_after, doc=DOC_BASE + reason
        )
        self.broker.registry.bans.append(Ban(tool=tool, refusal=refusal, at=at))

    def without_step(self, tool: str) -> None:
        """Let this tool be called without a step: its server starts a transaction of its own for that."""
        self.broker.registry.stepless.add(tool if "/" in tool else f"*/{tool}")

    def need_approval(self, tool: str, *, then: Literal["wait", "approve", "deny"] = "wait") -> None:
        """Let a person have to sign this tool's steps. then: what they do as soon as they are asked."""
        self.broker.registry.demands.append(Demand(tool=tool, then=then))

    def approve(self, tool: str | None = None) -> None:
        """Sign every step that waits, of this tool or of any.

        Raises:
            LookupError: none waits.
        """
        self._answer(tool, yes=True)

    def deny(self, tool: str | None = None) -> None:
        """Say no to every step that waits, of this tool or of any. Raises LookupError: none waits."""
        self._answer(tool, yes=False)

    def _answer(self, tool: str | None, *, yes: bool) -> None:
        if not self.broker.answer(tool, yes=yes):
            raise LookupError(f"no step of {tool or 'any tool'} waits for an approval")

    def allow(self, tool: str) -> None:
        """Take back what `refuse` and `need_approval` said of this tool."""
        registry = self.broker.registry
        registry.bans[:] = [ban for ban in registry.bans if ban.tool != tool]
        registry.demands[:] = [each for each in registry.demands if each.tool != tool]

    def expire(self) -> None:
        """Let the time pass: no credential, step token or approval that waits counts any more."""
        self.broker.expire_all()

    # --- ways in

    @asynccontextmanager
    async def client(
        self,
        server: Any,
        *,
        era: Era = "2026-07-28",
        on_refusal: Literal["result", "raise"] = "result",
        wait_for_approval: float = 0.0,
        guarded: bool = True,
        **options: Any,
    ) -> AsyncGenerator[Any]:
        """An in-memory client of this server, guarded, with a person's intent for all tools.

        server: an `MCPServer` with the `Stepwrit` extension gets an `mcp.Client`, a `FastMCP` with the
        `Stepwrit` middleware a `fastmcp.Client`; options: as for that. era: the protocol version spoken.
        on_refusal, wait_for_approval: as for `Intent.guard`. guarded: False for a client that knows nothing
        of steps.

        Raises:
            ConfigurationError: the server has no `Stepwrit` of ours: it would not be guarded at all.
        """
        extension = _extension(server)
        name: str = extension.name or server.name
        before, extension.broker = extension.broker, self.workload(name)
        self.broker.registry.servers[name] = Server(name=name, spiffe_id=_server_id(name))
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(_client(server, _MODE[era], options))
                if guarded:
                    token = self.broker.id_token(agent=AGENT)
                    wanted = self.agent().intent(token, purpose="a test", tools=["*"])
                    intent = await stack.enter_async_context(wanted)
                    intent.guard(client, name, on_refusal=on_refusal, wait_for_approval=wait_for_approval)
                yield client
        finally:
            extension.broker = before

    def agent(self) -> agent.Broker:
        """The broker as the agent of this test sees it."""
        return agent.Broker(self.broker.transport(AGENT), AGENT, Parts(retry=_QUICK))

    def workload(self, name: str) -> Broker:
        """The broker as the tool server of this name sees it."""
        self.broker.registry.servers.setdefault(name, Server(name=name, spiffe_id=_server_id(name)))
        return Broker(self.broker.transport(_server_id(name)), _server_id(name), Parts(retry=_QUICK))

    def sync_workload(self, name: str) -> SyncBroker:
        """The same for a worker that is a thread."""
        self.broker.registry.servers.setdefault(name, Server(name=name, spiffe_id=_server_id(name)))
        door = self.broker.sync_transport(_server_id(name))
        return SyncBroker(door, _server_id(name), Parts(retry=_QUICK))

    def resource(self, app: ASGIApp, audience: str, **options: Any) -> Resource:
        """The application behind a guard. options: as for `StepwritGuard`.

        With the `stepwrit` fixture every httpx2.AsyncClient of this process reaches it under its audience's
        origin, so that a tool's own code is tested as it is.
        """
        at = urlsplit(audience)
        workload = f"spiffe://{TRUST_DOMAIN}/resource/{at.hostname}"
        self.broker.registry.redeemers.setdefault(audience, set()).add(workload)
        redeemer = Broker(self.broker.transport(workload), workload, Parts(retry=_QUICK))
        made = Resource(StepwritGuard(app, audience=audience, broker=redeemer, **options), audience)
        self.routes[f"{at.scheme}://{at.netloc}"] = made.transport
        return made

    def route(self, request: httpx2.Request) -> httpx2.AsyncBaseTransport | None:
        """The resource in this process that a request goes to, if it goes to one."""
        return self.routes.get(f"{request.url.scheme}://{request.url.netloc.decode('ascii')}")


def _server_id(name: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/mcp-server/{''.join(c if c.isalnum() else '-' for c in name)}"


def _item(line: str | PlanItem) -> PlanItem:
    if isinstance(line, PlanItem):
        return line
    method, _, url = line.partition(" ")
    at = urlsplit(url)
    if not method.isupper() or at.scheme not in ("http", "https") or not at.netloc:
        raise ConfigurationError(f"a plan's line is `METHOD https://host/path`, not {line!r}")
    query = tuple(part.partition("=")[0] for part in at.query.split("&") if part)
    return PlanItem(
        at=f"{at.scheme}://{at.netloc}", method=method, path=at.path or "/", query=query, times=1_000
    )


def _client(server: Any, mode: Any, options: dict[str, Any]) -> AbstractAsyncContextManager[Any]:
    fastmcp = sys.modules.get("fastmcp")  # whoever has such a server has imported it
    if fastmcp is not None and isinstance(server, fastmcp.FastMCP):
        return cast("AbstractAsyncContextManager[Any]", fastmcp.Client(server, mode=mode, **options))
    from mcp import Client  # noqa: PLC0415  the `mcp` extra is needed only here

    return Client(server, mode=mode, **options)


def _extension(server: Any) -> Any:
    """The server's guard: FastMCP's middleware has one, mcp offers no public way to its extensions."""
    from stepwrit.mcp import Stepwrit  # noqa: PLC0415  needs the `mcp` extra

    stands = [getattr(each, "guarded_by", None) for each in getattr(server, "middleware", ())]
    for each in (*getattr(server, "_extensions", ()), *stands):
        if isinstance(each, Stepwrit):
            return each
    raise ConfigurationError(
        "this server has no Stepwrit: MCPServer(extensions=[Stepwrit…]) or FastMCP(middleware=[Stepwrit…])"
    )
