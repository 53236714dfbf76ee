"""Two trust domains, each with its own broker, federated: chains that cross from the first to the second.

async with Two() as two:
    crossing = await two.crossing()
    (await two.arrives(crossing)).ok()
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.fakes.stage import ENTRIES, Actor, Opened, Reply, Stage, spiffe

from stepwrit._transport import HttpTransport, Transport
from stepwrit.digest import unb64u
from stepwrit.jws import SigningKey
from stepwrit.wire import GRANT_TOKEN_EXCHANGE, TOKEN_TYPE_STEP
from stepwrit.wire_chain import GRANT_JWT_BEARER, TOKEN_TYPE_ID_JAG, TYP_ID_JAG

HOME, AWAY = "home.test", "away.test"
HOME_ISSUER, AWAY_ISSUER = "https://broker.home.test", "https://broker.away.test"
VAULT = spiffe("mcp-server/vault", AWAY)
SEND: dict[str, Any] = {"to": "bob", "cents": 5}

# at home: a server of the other domain, by its own broker
ABROAD: list[dict[str, Any]] = [
    {"id": VAULT, "role": "mcp-server", "name": "far", "issuer": AWAY_ISSUER,
     "tools": {"read": {"impact": "low"}, "burn": {"impact": "high"}, "dim": {"impact": "low"}}},
]  # fmt: skip
# over there: its own servers, and the callers of ours
GUESTS: list[dict[str, Any]] = [
    {"id": "mcp-server/vault", "role": "mcp-server", "name": "vault",
     "tools": {"read": {"impact": "low", "plan": "self"}, "burn": {"impact": "high", "plan": "self"},
               "dim": {"impact": "medium", "plan": "self"}, "shut": {"impact": "low", "plan": "self"}},
     "may_start": {"tools": ["books/note"], "impact": "low"}},
    {"id": "mcp-server/books", "role": "mcp-server", "name": "books",
     "tools": {"note": {"impact": "low", "plan": "self"}}},
    {"id": spiffe("agent/chat", HOME), "role": "agent", "name": "home-chat",
     "may_start": {"tools": ["vault/*"], "impact": "high"}},
    {"id": spiffe("agent/other", HOME), "role": "agent", "name": "home-other",
     "may_start": {"tools": ["vault/*"], "impact": "high"}},
    {"id": spiffe("mcp-server/ledger", HOME), "role": "mcp-server", "name": "home-ledger", "tools": {},
     "may_start": {"tools": ["vault/*"], "impact": "low"}},
    {"id": "operator/ops", "role": "operator", "name": "ops"},
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Abroad(Actor):
    """A workload of the first domain that speaks to the second's broker, with the same SVID and key."""

    home: Stage = field(repr=False)
    way: Transport = field(repr=False)

    @property
    def id(self) -> str:
        return spiffe(self.path, HOME)

    async def send(self, method: str, path: str, body: bytes, headers: Any) -> Reply:
        from stepwrit.flow import Request

        answer = await self.way.send(Request(method=method, path=path, headers=dict(headers), body=body))
        read = json.loads(answer.body) if "json" in answer.headers.get("content-type", "") else {}
        return Reply(status=answer.status, body=read, raw=answer.body, headers=answer.headers)


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A step at home that was granted away, and its grant."""

    opened: Opened
    grant: str
    reply: dict[str, Any] = field(repr=False)

    @property
    def claims(self) -> dict[str, Any]:
        return dict(json.loads(unb64u(self.grant.split(".")[1])))


class Two:
    """`async with Two() as two:` starts both; `home_peer`, `away_peer`: members of the registries' peers."""

    def __init__(self, **peer: Any) -> None:
        limits = {"policy": "low-risk"}
        chat = next(each for each in ENTRIES if each["name"] == "chat")
        start = {**chat["may_start"], "tools": [*chat["may_start"]["tools"], "far/*"]}
        ledger = next(each for each in ENTRIES if each["name"] == "ledger")
        starts = {**ledger["may_start"], "tools": [*ledger["may_start"]["tools"], "far/*"]}
        changed = {"chat": {**chat, "may_start": start}, "ledger": {**ledger, "may_start": starts}}
        self.home_entries = [*(changed.get(each["name"], each) for each in ENTRIES), *ABROAD]
        self.home = Stage(domain=HOME, issuer=HOME_ISSUER, entries=[*ENTRIES], foreign=(AWAY,), **limits)
        self.away = Stage(domain=AWAY, issuer=AWAY_ISSUER, entries=GUESTS, foreign=(HOME,), **limits)
        self.home_peer: dict[str, Any] = {"owner": "ops@home.test", **peer}
        self.away_peer: dict[str, Any] = {
            "owner": "ops@away.test",
            "may_start": {"tools": ["vault/read", "vault/burn", "vault/dim", "books/*"], "impact": "medium"},
            **peer,
        }
        self._stack = AsyncExitStack()
        self._abroad: dict[str, Abroad] = {}

    async def __aenter__(self) -> Self:
        try:
            for stage in (self.home, self.away):
                await self._stack.enter_async_context(stage)
            await self._federate()
            self.home.entries = self.home_entries
            await self.register()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _federate(self) -> None:
        for stage, other in ((self.home, self.away), (self.away, self.home)):
            before = stage.broker.identity.generation
            stage.trust.trust(other.domain, other.trust.ca.authorities, other.trust.ca.jwks())
            await _until(lambda stage=stage, before=before: stage.broker.identity.generation > before)
            await self.policy(stage, other.domain)

    async def policy(self, stage: Stage, *domains: str) -> None:
        """The shipped policy, with these domains named."""
        path = stage.folder / "policy" / "50-federation.cedar"
        named = "".join(f', "{domain}"' for domain in domains)
        text = (Path(__file__).parents[2] / "deploy/policies/low-risk/50-federation.cedar").read_text()
        path.write_text(text.replace("[context.home].", f"[context.home{named}]."))
        await stage.broker.files.apply("policy")

    async def register(self) -> None:
        """Both registries, as they stand here now."""
        self.home.peers = [_peer("away", self.away, AWAY_ISSUER, self.home_peer)]
        self.away.peers = [_peer("home", self.home, HOME_ISSUER, self.away_peer)]
        for stage in (self.home, self.away):
            stage.write_registry(stage.entries)
            await stage.broker.files.apply("registry")

    async def restart_away(self) -> None:
        """The second broker again, on the same files; it listens elsewhere now."""
        for each in self._abroad.values():
            await each.way.close()
        self._abroad.clear()
        await self.away.restart()
        await self.register()

    # --- the way across

    async def opened(self, tool: str = "far/read", path: str = "agent/chat", **more: Any) -> Opened:
        """A step at home for a tool of the other domain."""
        actor = await self.home.actor(path)
        root = await actor.intent(ceiling=_ceiling())
        return await actor.open(root["step"], tool, args=SEND, **more)

    async def by_server(self) -> Opened:
        """One that a server of ours opened, below a model's step."""
        chat, ledger = await self.home.actor("agent/chat"), await self.home.actor("mcp-server/ledger")
        root = await chat.intent(ceiling=_ceiling())
        model = await chat.open(root["step"], "ledger/note")
        (await ledger.accept(model)).ok()
        return await ledger.open(model.step, "far/read", args=SEND)

    async def export(self, step: str, by: Actor | None = None, **changes: str) -> Reply:
        """The exchange at home."""
        actor = by or await self.home.actor("agent/chat")
        op = changes.pop("op", None)
        return await actor.form({**export_form(step), **changes}, op=op)

    async def crossing(self, opened: Opened | None = None) -> Crossing:
        """A step with its grant."""
        opened = opened or await self.opened()
        reply = (await self.export(opened.step, opened.by)).ok()
        return Crossing(opened=opened, grant=reply["access_token"], reply=reply)

    async def abroad(self, path: str = "agent/chat", key: SigningKey | None = None) -> Abroad:
        """The same workload, at the other broker."""
        actor = await self.home.actor(path)
        if path not in self._abroad:
            way = HttpTransport(self.away.url, await self.home.identity(path), self.away.broker_id)
            self._stack.push_async_callback(way.close)
            self._abroad[path] = Abroad(stage=self.away, path=path, key=actor.key, home=self.home, way=way)
        made = self._abroad[path]
        return (
            made if key is None else Abroad(stage=self.away, path=path, key=key, home=self.home, way=made.way)
        )

    async def arrives(self, crossing: Crossing | str, by: Actor | None = None, **changes: Any) -> Reply:
        """The grant at the other broker."""
        grant = crossing if isinstance(crossing, str) else crossing.grant
        path = "agent/chat" if isinstance(crossing, str) else crossing.opened.by.path
        actor = by or await self.abroad(path)
        op = changes.pop("op", None)
        return await actor.form({"grant_type": GRANT_JWT_BEARER, "assertion": grant, **changes}, op=op)

    async def landed(self, crossing: Crossing, **more: Any) -> Opened:
        """… and its one step opened there."""
        root = (await self.arrives(crossing)).ok()
        actor = await self.abroad(crossing.opened.by.path)
        return await actor.open(root["step"], "vault/read", args=SEND, **more)

    def forged(
        self, crossing: Crossing, key: SigningKey | None = None, typ: str = TYP_ID_JAG, **claims: Any
    ) -> str:
        """The grant with other claims, by a key of home's broker (or another)."""
        ring = self.home.broker.housed.rings[2]
        signer = key or ring.signing_key(self.home.now())
        return signer.sign(typ, {**crossing.claims, "jti": crossing.claims["jti"] + "x", **claims})


def export_form(step: str) -> dict[str, str]:
    return {
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": step,
        "subject_token_type": TOKEN_TYPE_STEP,
        "requested_token_type": TOKEN_TYPE_ID_JAG,
        "audience": AWAY_ISSUER,
    }


def _ceiling() -> Any:
    from stepwrit.wire import CeilingSpec

    return CeilingSpec(tools=("ledger/*", "audit/*", "far/*"), impact="high")


def _peer(name: str, stage: Stage, issuer: str, more: dict[str, Any]) -> dict[str, Any]:
    broker = {"id": stage.broker_id, "url": stage.url}
    return {"name": name, "issuer": issuer, "trust_domain": stage.domain, "broker": broker, **more}


async def _until(holds: Any) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")
