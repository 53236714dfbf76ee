"""`python -m tests.faults.callers SETTINGS.json`: one process with many concurrent callers.

A caller is an agent with its tool server. Its credentials are presented at several places of the bank at
once, each with a fresh proof: one of them may go ahead, whoever it is. It repeats what was cut with the same
operation id, at another broker. Now and then it revokes a step, before or while its credential is used.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
from tests.faults.observed import Effect
from tests.faults.wire import Asker, Book, Said, Ways, new
from tests.faults.world import AGENT, BANK, CLIENT, DOMAIN, OPERATOR, PLACES, SERVER

from stepwrit import shape
from stepwrit.digest import args_digest, body_digest
from stepwrit.dpop import make_proof, make_step_proof, token_hash
from stepwrit.wire import (
    ACTION_TYPE,
    GRANT_TOKEN_EXCHANGE,
    TOKEN_TYPE_ACCESS,
    TOKEN_TYPE_ID,
    TOKEN_TYPE_STEP,
    TOKEN_TYPE_TXN,
    CeilingSpec,
    IntentRequest,
)

ARGS: dict[str, Any] = {"to": "bob", "cents": 500}
BODY = json.dumps(ARGS).encode()
URL = f"{BANK}/v1/transfers"
FORM = "application/x-www-form-urlencoded"
GIVE_UP_S = 9.0  # a redeem's answer is repeated for 10 s
STEPS = 6


def packed(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(kw_only=True)
class Crowd:
    """What all callers of this process share."""

    brokers: list[str]
    oidc: str
    book: Book
    effects: dict[str, Book]
    ways: dict[str, Ways]
    chance: random.Random
    stopping: asyncio.Event
    pause_s: float

    make: type[Asker] = Asker

    def asker(self, name: str, path: str) -> Asker:
        return self.make(name=name, ways=self.ways[path], book=self.book)

    async def rest(self, most: float) -> None:
        await asyncio.sleep(self.chance.uniform(0.0, most))


class Place:
    """One replica of the bank: its guard redeems, and it acts once it was told yes."""

    def __init__(self, crowd: Crowd, path: str) -> None:
        self._crowd, self._path = crowd, path
        self._asker = crowd.asker(path, path)

    async def present(self, token: str, holder: Asker, about: dict[str, Any]) -> bool:
        """A request with this credential arrived; whether it was carried out."""
        proof = make_proof(holder.key, "POST", URL, time.time(), new(), ath=token_hash(token))
        body = packed(
            {"v": 1, "token": token, "proof": proof, "method": "POST", "url": URL, "body": body_digest(BODY)}
        )
        op = new()

        def once(via: str) -> Awaitable[Said]:
            return self._asker.ask("redeem", "/v1/redeem", body, via=via, op=op, **about)

        said = await again(self._crowd, once, GIVE_UP_S)
        if not said.ok:
            return False
        done = Effect(
            at=time.time(), place=self._path, grant=said.exchange.grant, op=op, ref=said.exchange.ref
        )
        await asyncio.to_thread(self._crowd.effects[self._path].put, done)
        return True


async def again(crowd: Crowd, once: Callable[[str], Awaitable[Said]], within_s: float = 20.0) -> Said:
    """The same operation until it is answered for good: elsewhere, after a moment, for a while."""
    end = time.monotonic() + within_s
    while True:
        said = await once(crowd.chance.choice(crowd.brokers))
        doubt = said.exchange.result == "cut" or said.exchange.code in (
            "unavailable",
            "limit",
            "stale_version",
        )
        if not doubt or time.monotonic() > end or crowd.stopping.is_set():
            return said
        await crowd.rest(1.0 if said.exchange.result == "cut" else 1.5)


class Caller:
    """An agent and its server, one cycle after the other."""

    place: type[Place] = Place
    server = "ledger"

    def __init__(self, crowd: Crowd, name: str) -> None:
        self._crowd, self._name = crowd, name
        self._agent = crowd.asker(name, AGENT)
        self._server = crowd.asker(name, SERVER)
        self._places = [self.place(crowd, path) for path in PLACES]

    async def live(self) -> None:
        """Until it is time to stop."""
        while not self._crowd.stopping.is_set():
            await self._crowd.rest(self._crowd.pause_s)
            root = await self._intent()
            if not root.ok:
                continue
            for _ in range(STEPS):
                await self._cycle(root.exchange.step)
                await self._crowd.rest(self._crowd.pause_s)
                if self._crowd.stopping.is_set():
                    return

    async def _id_token(self) -> str:
        """The provider is no part of what is broken; it is only slow where the machine is."""
        while True:
            with suppress(httpx2.TransportError):
                async with httpx2.AsyncClient(timeout=30.0) as http:
                    asked = {"sub": self._name, "client_id": CLIENT}
                    minted = await http.post(f"{self._crowd.oidc}/mint", json=asked)
                    return str(minted.json()["id_token"])

    async def _intent(self) -> Said:
        """A person's intent; the same ID token is then tried for another, which must not be."""
        token = await self._id_token()
        wanted = IntentRequest(
            purpose="pay",
            ceiling=CeilingSpec(tools=("ledger/*",), impact="medium"),
            exp=int(time.time()) + 900,
        )
        form = urlencode(
            {"grant_type": GRANT_TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": TOKEN_TYPE_ID,
             "requested_token_type": TOKEN_TYPE_TXN, "audience": DOMAIN, "scope": "intent",
             "request_details": json.dumps(shape.write(wanted))}
        ).encode()  # fmt: skip
        about = {"target": f"id_token:{token_hash(token)}"}

        def by(op: str) -> Callable[[str], Awaitable[Said]]:
            path = "/oauth/token"
            return lambda via: self._agent.ask(
                "intent", path, form, via=via, op=op, proof=self._agent.proof(path), kind=FORM, **about
            )

        first, second = await asyncio.gather(again(self._crowd, by(new())), by(new())(self._any()))
        return first if first.ok or not second.ok else second

    def _any(self) -> str:
        return self._crowd.chance.choice(self._crowd.brokers)

    async def _cycle(self, parent: str) -> None:
        tool = "refund" if self._crowd.chance.random() < 0.15 else "transfer"
        opened = await self._open(parent, tool)
        if not opened.ok:
            return
        about = {
            "txn": opened.exchange.txn,
            "step": opened.exchange.step,
            "covered": (f"tool:{self.server}/{tool}",),
        }
        if not (await self._accept(opened, about)).ok:
            return
        got = await self._credential(about)
        if not got.ok:
            return
        await self._use(got.body["access_token"], {**about, "grant": got.exchange.grant})

    async def _use(self, token: str, about: dict[str, Any]) -> None:
        """As it should be, revoked before, revoked meanwhile, or not at all."""
        how = self._crowd.chance.random()
        if how < 0.1:
            return
        if how < 0.2:
            await self._revoke(about)
            await self._present(token, about)
        elif how < 0.3:
            await asyncio.gather(self._revoke(about), self._present(token, about))
        else:
            await self._present(token, about)
            await self._close(about)

    async def _present(self, token: str, about: dict[str, Any]) -> None:
        """At every place at once, and at each once more: with a proof of its own each time."""
        await asyncio.gather(*(self._late(place, token, about) for place in self._places))
        await self._crowd.chance.choice(self._places).present(token, self._server, about)

    async def _late(self, place: Place, token: str, about: dict[str, Any]) -> None:
        await self._crowd.rest(0.02)
        await place.present(token, self._server, about)

    # --- the verbs

    async def _open(self, parent: str, tool: str) -> Said:
        """Now and then asked at two brokers at once, by the same operation: one step comes of it."""
        body = packed({"v": 1, "parent": parent, "server": "ledger", "tool": tool, "args": ARGS})
        op, path, about = new(), "/v1/steps", {"covered": (f"tool:ledger/{tool}",)}

        def once(via: str) -> Awaitable[Said]:
            return self._agent.ask("open", path, body, via=via, op=op, proof=self._agent.proof(path), **about)

        if self._crowd.chance.random() < 0.8:
            return await again(self._crowd, once)
        first, _ = await asyncio.gather(again(self._crowd, once), once(self._any()))
        return first

    async def _accept(self, opened: Said, about: dict[str, Any]) -> Said:
        token, step, digest = opened.body["token"], opened.exchange.step, args_digest(ARGS)
        proof = make_step_proof(
            self._agent.key, token=token, args=digest, round=1, now=time.time(), jti=new()
        )
        body, op = packed({"v": 1, "token": token, "proof": proof, "args": digest, "round": 1}), new()
        path = f"/v1/steps/{step}/accept"
        return await again(
            self._crowd, lambda via: self._server.ask("accept", path, body, via=via, op=op, **about)
        )

    async def _credential(self, about: dict[str, Any]) -> Said:
        details = {"type": ACTION_TYPE, "method": "POST", "url": URL, "body": body_digest(BODY)}
        form = urlencode(
            {"grant_type": GRANT_TOKEN_EXCHANGE, "subject_token": about["step"], "resource": BANK,
             "subject_token_type": TOKEN_TYPE_STEP, "requested_token_type": TOKEN_TYPE_ACCESS,
             "authorization_details": json.dumps([details])}
        ).encode()  # fmt: skip
        op, path = new(), "/oauth/token"
        return await again(
            self._crowd,
            lambda via: self._server.ask(
                "credential", path, form, via=via, op=op, proof=self._server.proof(path), kind=FORM, **about
            ),
        )

    async def _close(self, about: dict[str, Any]) -> Said:
        op, path = new(), f"/v1/steps/{about['step']}/close"
        body = packed({"v": 1, "outcome": "done"})
        return await again(
            self._crowd, lambda via: self._server.ask("close", path, body, via=via, op=op, **about)
        )

    async def _revoke(self, about: dict[str, Any]) -> Said:
        target = f"step:{about['step']}"
        body, op = packed({"v": 1, "verb": "revoke", "target": target, "reason": "a fault run"}), new()
        named = {**about, "target": target}
        return await again(
            self._crowd,
            lambda via: self._agent.ask("revoke", "/v1/revocations", body, via=via, op=op, **named),
        )


class Operator:
    """Freezes a tool for a moment, again and again."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd, self._asker = crowd, crowd.asker("operator", OPERATOR)

    async def live(self) -> None:
        """Until it is time to stop; the freeze is lifted at the end."""
        while not self._crowd.stopping.is_set():
            await self._crowd.rest(6.0)
            if (await self._mark("freeze")).ok:
                await self._crowd.rest(2.0)
            await self._mark("unfreeze")

    async def _mark(self, verb: str) -> Said:
        target, op = "tool:ledger/refund", new()
        body = packed({"v": 1, "verb": verb, "target": target, "reason": "a fault run"})
        return await again(
            self._crowd,
            lambda via: self._asker.ask(verb, "/v1/revocations", body, via=via, op=op, target=target),
        )


async def run(given: dict[str, Any]) -> None:
    """Callers until stdin ends or a line comes."""
    folder = Path(given["folder"])
    crowd = Crowd(
        brokers=list(given["brokers"]),
        oidc=given["oidc"],
        book=Book(folder / f"{given['name']}.exchanges"),
        effects={path: Book(folder / f"effects-{path.rpartition('/')[2]}", synced=True) for path in PLACES},
        ways={path: Ways(path, socket, given["brokers"]) for path, socket in given["sockets"].items()},
        chance=random.Random(given["seed"]),
        stopping=asyncio.Event(),
        pause_s=given["pause_s"],
    )
    await asyncio.gather(*(way.start() for way in crowd.ways.values()))
    print("ready", flush=True)
    lives = [Caller(crowd, f"{given['name']}.{n}").live() for n in range(given["callers"])]
    if given["operator"]:
        lives.append(Operator(crowd).live())
    tasks = [asyncio.create_task(life) for life in lives]
    await asyncio.to_thread(sys.stdin.readline)
    crowd.stopping.set()
    await asyncio.gather(*tasks)
    await asyncio.gather(*(way.stop() for way in crowd.ways.values()))


if __name__ == "__main__":
    asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))
