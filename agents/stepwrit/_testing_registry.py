"""What the in-memory broker was told beforehand: who is who, which tools, which plans, which are refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from stepwrit._testing_books import Ban, Demand, No, Server, Tool
from stepwrit.wire import PlanItem
from stepwrit.wire_acts import CLIENT


@dataclass(slots=True, kw_only=True)
class Registry:
    """Workloads by role, tools by `server/tool`. lenient: unknown tools are low and `self`. narrowing: agents
    whose word on what influenced a step is taken. stepless: tools (`server/tool`, `*/tool`) that may be
    called without a step.
    """

    agents: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    narrowing: set[str] = field(default_factory=set)
    stepless: set[str] = field(default_factory=set)
    servers: dict[str, Server] = field(default_factory=dict)
    tools: dict[str, Tool] = field(default_factory=dict)
    redeemers: dict[str, set[str]] = field(default_factory=dict)
    bans: list[Ban] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)
    lenient: bool = True

    def attested(self, caller: str) -> bool:
        """Whether anybody registered this workload."""
        servers = {server.spiffe_id for server in self.servers.values()}
        return caller in self.agents | self.operators | servers | set().union(*self.redeemers.values())

    def server(self, said: str) -> Server:
        """The server of this name, URL or SPIFFE ID. Raises No."""
        for server in self.servers.values():
            if said in (server.name, server.spiffe_id) or (server.url is not None and said == server.url):
                return server
        raise No("not_registered", "no such server")

    def tool(self, server: Server, name: str) -> Tool:
        """A tool of this server. Raises No."""
        full = f"{server.name}/{name}"
        known = self.tools.get(full) or self.tools.get(f"*/{name}")
        if known is not None:
            return Tool(name=full, impact=known.impact, plan=known.plan)
        if self.lenient:
            return Tool(name=full)
        raise No("not_registered", "no such tool at this server")

    def own_tool(self, caller: str, name: str) -> Tool:
        """A tool of the calling server that may be called without a step. Raises No."""
        own = next((each for each in self.servers.values() if each.spiffe_id == caller), None)
        if own is None:
            raise No("invalid_request", "only a tool's own server has calls without a step")
        tool = self.tool(own, name)
        if self.stepless.isdisjoint((tool.name, f"*/{name}")) or tool.impact != "low":
            raise No("no_step", "the registry lets no call of this tool come without a step")
        return tool

    def act(self, name: str) -> Tool:
        """What a server may ask of its client. Raises No."""
        try:
            return self.tools[f"{CLIENT}/{name}"]
        except KeyError:
            raise No("not_registered", f"a client does no {name} for a server") from None

    def test(self, tool: Tool | None, at: str) -> None:
        """Pass unless a knob refuses this tool at this verb. Raises No."""
        for ban in self.bans:
            if tool is not None and ban.at == at and tool.name in (ban.tool, _any_server(tool, ban.tool)):
                raise No(ban.refusal.code, ban.refusal.reason, retry_after=ban.refusal.retry_after)

    def demand(self, tool: Tool) -> Demand | None:
        """What a knob demands of this tool's steps."""
        for each in self.demands:
            if tool.name in (each.tool, _any_server(tool, each.tool)):
                return each
        return None


def _any_server(tool: Tool, short: str) -> str:
    return f"{tool.name.partition('/')[0]}/{short}"


def line_for(plan: tuple[PlanItem, ...] | None, method: str, url: str, audience: str) -> int:
    """The first line of the plan that the request fits. Raises No."""
    for at, item in enumerate(plan or ()):
        if item.at == audience and item.method == method and _fits(item, url):
            return at
    raise No("plan", "the request is not in the tool's plan")


def _fits(item: PlanItem, url: str) -> bool:
    have, base = urlsplit(url), urlsplit(item.at)
    names = {name for name, _ in parse_qsl(have.query, keep_blank_values=True)}
    if (have.scheme, have.netloc) != (base.scheme, base.netloc) or not names <= set(item.query):
        return False
    want = (base.path.rstrip("/") + item.path).split("/")
    got = have.path.split("/")
    return len(want) == len(got) and all(_segment(a, b) for a, b in zip(want, got, strict=True))


def _segment(want: str, got: str) -> bool:
    if want.startswith("{") and want.endswith("}"):
        plain = unquote(got)
        return plain not in ("", ".", "..") and "/" not in plain and "\\" not in plain
    return want == got
