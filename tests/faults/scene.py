"""A fleet on which a trace is played step by step, and everything that was asked of it, for the checker."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults.checker import check
from tests.faults.fleet import ThinFleet, thin_fleet
from tests.faults.observed import Effect, Exchange, Fault, Run, Terms
from tests.faults.process import build_shim
from tests.faults.relay import Behaviour
from tests.faults.thin_callers import Links, ThinAsker
from tests.faults.told import Finding
from tests.faults.wire import Said, new
from tests.faults.world import LIMITS, TIMES
from tests.rigs.redis import in_sync, until

ALWAYS = Fault(kind="trace", target="all", began=0.0, ended=9e9)  # cuts are expected at any time
WAIT_S = 160.0


class Kept:
    """A book in memory."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    def put(self, part: Exchange | Effect) -> None:
        assert isinstance(part, Exchange)
        self.exchanges.append(part)


class Scene:
    """Asks brokers by name. Brokers `b1` to `b3`, engines in `rig`."""

    def __init__(self, fleet: ThinFleet) -> None:
        self.fleet, self.rig, self.book = fleet, fleet.rig, Kept()
        links: Any = Links({name: broker.relay.port for name, broker in fleet.brokers.items()})
        self._links = links
        book: Any = self.book
        self._asker = ThinAsker(name="test", ways=links, book=book)

    async def close(self) -> None:
        """Let go of connections."""
        await self._links.close()

    async def tell(self, verb: str, via: str, *, op: str = "", **members: str) -> Said:
        """One request; `op` repeats one."""
        known = {name: members[name] for name in ("step", "grant", "target") if name in members}
        return await self._asker.tell(verb, via, op or new(), known, **members)

    async def ok(self, verb: str, via: str, **members: str) -> Said:
        """Asked until it is answered yes: for what is no part of the trace."""
        op, said = new(), list[Said]()

        async def done() -> bool:
            said.append(await self.tell(verb, via, op=op, **members))
            await asyncio.sleep(0.0 if said[-1].ok else 0.3)
            return said[-1].ok

        await until(done, f"{verb} at {via}", WAIT_S)
        return said[-1]

    async def accepted(self, via: str) -> str:
        """A step that runs."""
        root = await self.ok("intent", via, token=new())
        opened = await self.ok("open", via, parent=root.exchange.step, tool="transfer")
        await self.ok("accept", via, step=opened.exchange.step)
        return opened.exchange.step

    async def issued(self, via: str) -> tuple[str, str]:
        """A step, and a credential of it."""
        step = await self.accepted(via)
        return step, (await self.ok("credential", via, step=step)).exchange.grant

    async def spent(self, via: str) -> str:
        """The control: a fresh credential is redeemed, and not again."""
        for _ in range(10):  # an epoch may end in between
            _, grant = await self.issued(via)
            first = await self.tell("redeem", via, grant=grant)
            if first.ok:
                assert not (await self.tell("redeem", via, grant=grant)).ok
                return grant
        raise AssertionError("no fresh credential could be redeemed")

    async def status(self, via: str) -> dict[str, Any]:
        """What a broker says of itself."""
        import json

        answer: dict[str, Any] = json.loads(await self._links.ask(via, b'{"verb": "status"}'))["ok"]
        return answer

    async def leader(self) -> str:
        """Which broker carries the streams, once one does."""
        found: list[str] = []

        async def done() -> bool:
            for name, broker in self.fleet.brokers.items():
                if broker.process.pid and (await self.status(name))["leads"]:
                    found.append(name)
                    return True
            return False

        await until(done, "a broker leads", WAIT_S)
        return found[-1]

    # --- what the traces have in common

    def part_replica(self) -> None:
        """The second Redis hears nothing of the first any more; the Sentinels still do."""
        self.rig.relays["redis-a"].misbehave(Behaviour("cut"), "redis-b")

    async def fail_over(self, fallen: str, risen: str) -> None:
        """The one dies; the other is made the primary."""
        self.rig.redis[fallen].kill()
        await self.rig.failed_over(risen)

    async def follows(self, name: str) -> None:
        """It is in step with its primary."""

        await until(lambda: in_sync(self.rig.redis[name]), f"{name} follows", WAIT_S)

    async def findings(self) -> list[Finding]:
        """What the checker says of all that was asked; the brokers are ended for it."""

        async def over() -> bool:
            return await self.fleet.live() == 0

        await until(over, "every credential has ended", self.fleet.settle_s)
        await self.fleet.stop()
        entries, state = await self.fleet.read()
        terms = Terms(limits=LIMITS, times=TIMES, is_epoch_fresh=self.fleet.is_epoch_fresh)
        return check(
            Run(
                exchanges=tuple(self.book.exchanges),
                faults=(ALWAYS,),
                entries=tuple(entries),
                state=state,
                terms=terms,
            )
        )


@asynccontextmanager
async def scene(folder: Path) -> AsyncGenerator[Scene]:
    """With a fleet that runs; nothing is started again by itself."""
    async with thin_fleet(folder, build_shim(folder), is_supervised=False) as fleet:
        await fleet.start()
        played = Scene(fleet)
        try:
            yield played
        finally:
            await played.close()
            await fleet.stop()


async def restored(scene: Scene, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """PostgreSQL is set back to before `meanwhile`: a copy of its folder, taken while it was down."""
    server = scene.rig.postgres
    copy = server.folder / "copy"
    await server.stop()
    await asyncio.to_thread(shutil.copytree, server.data, copy, symlinks=True, copy_function=shutil.copy2)
    await asyncio.to_thread(_owned, copy)
    await server.start()
    await meanwhile()
    await server.stop()
    await asyncio.to_thread(shutil.rmtree, server.data)
    copy.rename(server.data)
    await server.start()


def _owned(copy: Path) -> None:
    from tests.rigs.postgres import own

    own(copy)
    for each in copy.rglob("*"):
        own(each)
    copy.chmod(0o700)
