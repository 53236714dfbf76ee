"""`python -m tests.faults.thin_callers SETTINGS.json`: the callers, of thin brokers."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.bench.client import Answer
from tests.faults.callers import GIVE_UP_S, Caller, Crowd, Operator, Place, again
from tests.faults.observed import Effect
from tests.faults.wire import TIMEOUT_S, Asker, Book, CutError, Said, new
from tests.faults.world import PLACES

IDLE_MOST = 16
Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Links:
    """JSON lines to any broker; stands in for `Ways`."""

    def __init__(self, brokers: dict[str, int]) -> None:
        self._brokers = brokers
        self._idle: dict[str, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {
            n: [] for n in brokers
        }

    async def ask(self, broker: str, line: bytes) -> bytes:
        """One exchange. Raises CutError."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                idle = [each for each in self._idle[broker] if not each[0].at_eof()]
                self._idle[broker] = idle
                link = idle.pop() if idle else await self._connect(broker)
                reader, writer = link
                writer.write(line + b"\n")
                answer = await reader.readline()
            if not answer.endswith(b"\n"):
                raise ConnectionResetError("the broker closed the connection")
        except (OSError, TimeoutError) as error:
            if writer is not None:
                writer.close()
            raise CutError(f"{type(error).__name__} {error}"[:200]) from error
        if len(self._idle[broker]) < IDLE_MOST:
            self._idle[broker].append(link)
        else:
            writer.close()
        return answer

    async def close(self) -> None:
        """Let go of all."""
        writers = [writer for links in self._idle.values() for _, writer in links]
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def _connect(self, broker: str) -> Link:
        return await asyncio.open_connection("127.0.0.1", self._brokers[broker])


class ThinAsker(Asker):
    """Sends the members as they are; a refusal gets the status that says so."""

    async def _exchanged(self, via: str, path: str, body: bytes, op: str, *, proof: str, kind: str) -> Answer:
        answer = json.loads(await self.ways.ask(via, body))  # type: ignore[arg-type, type-var]
        return (
            (200, json.dumps(answer["ok"]).encode()) if "ok" in answer else (403, json.dumps(answer).encode())
        )

    async def tell(self, verb: str, via: str, op: str, about: dict[str, Any], **members: Any) -> Said:
        """One request with these members."""
        said = {"verb": verb, "op": op, "caller": self.name, **members}
        return await self.ask(verb, "", json.dumps(said).encode(), via=via, op=op, **about)


class ThinPlace(Place):
    """A place whose guard sends the grant's id."""

    async def present(self, token: str, holder: Asker, about: dict[str, Any]) -> bool:
        op, asker = new(), self._asker
        assert isinstance(asker, ThinAsker)
        said = await again(
            self._crowd, lambda via: asker.tell("redeem", via, op, about, grant=token), GIVE_UP_S
        )
        if not said.ok:
            return False
        found = said.exchange
        done = Effect(at=time.time(), place=self._path, grant=found.grant, op=op, ref=found.ref)
        await asyncio.to_thread(self._crowd.effects[self._path].put, done)
        return True


class ThinCaller(Caller):
    """The same life, in fewer words."""

    place, server = ThinPlace, "mail"

    async def _tell(self, verb: str, about: dict[str, Any], **members: Any) -> Said:
        op, once = new(), self._once
        return await again(self._crowd, once(verb, op, about, members))

    def _once(
        self, verb: str, op: str, about: dict[str, Any], members: dict[str, Any]
    ) -> Callable[[str], Awaitable[Said]]:
        asker = self._agent
        assert isinstance(asker, ThinAsker)
        return lambda via: asker.tell(verb, via, op, about, **members)

    async def _intent(self) -> Said:
        token = new()
        about, members = {"target": f"id_token:{token}"}, {"token": token}
        first, second = await asyncio.gather(
            self._tell("intent", about, **members),
            self._once("intent", new(), about, members)(self._any()),
        )
        return first if first.ok or not second.ok else second

    async def _open(self, parent: str, tool: str) -> Said:
        op, about, members = new(), {"covered": (f"tool:mail/{tool}",)}, {"parent": parent, "tool": tool}
        once = self._once("open", op, about, members)
        if self._crowd.chance.random() < 0.8:
            return await again(self._crowd, once)
        first, _ = await asyncio.gather(again(self._crowd, once), once(self._any()))
        return first

    async def _accept(self, opened: Said, about: dict[str, Any]) -> Said:
        return await self._tell("accept", about, step=about["step"])

    async def _credential(self, about: dict[str, Any]) -> Said:
        said = await self._tell("credential", about, step=about["step"])
        said.body["access_token"] = said.exchange.grant  # the thin broker mints nothing
        return said

    async def _close(self, about: dict[str, Any]) -> Said:
        return await self._tell("close", about, step=about["step"])

    async def _revoke(self, about: dict[str, Any]) -> Said:
        target = f"step:{about['step']}"
        return await self._tell("revoke", {**about, "target": target}, target=target)


class ThinOperator(Operator):
    """Freezes one tool."""

    async def _mark(self, verb: str) -> Said:
        target, op, asker = "tool:mail/refund", new(), self._asker
        assert isinstance(asker, ThinAsker)
        return await again(
            self._crowd, lambda via: asker.tell(verb, via, op, {"target": target}, target=target)
        )


async def run(given: dict[str, Any]) -> None:
    """Callers until stdin has a line, or ends."""
    folder, links = Path(given["folder"]), Links(given["brokers"])
    crowd = Crowd(
        brokers=list(given["brokers"]),
        oidc="",
        book=Book(folder / f"{given['name']}.exchanges"),
        effects={path: Book(folder / f"effects-{path.rpartition('/')[2]}", synced=True) for path in PLACES},
        ways=dict.fromkeys(given["roles"], links),  # type: ignore[arg-type]
        chance=random.Random(given["seed"]),
        stopping=asyncio.Event(),
        pause_s=given["pause_s"],
        make=ThinAsker,
    )
    print("ready", flush=True)
    lives = [ThinCaller(crowd, f"{given['name']}.{n}").live() for n in range(given["callers"])]
    if given["operator"]:
        lives.append(ThinOperator(crowd).live())
    tasks = [asyncio.create_task(life) for life in lives]
    await asyncio.to_thread(sys.stdin.readline)
    crowd.stopping.set()
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))
