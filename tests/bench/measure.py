"""Windows of load against one process: closed loop, verb by verb, and paced with Poisson arrivals."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol, Self
from urllib.parse import urlencode

from tests.bench.client import connect, post
from tests.bench.cycle import VERBS, Caller, Cycle, Lane, Proofs, RefusedError
from tests.bench.world import AGENT, BANK, BROKER, SERVER, Domain

from stepwrit._tls import client_context
from stepwrit.identity import WorkloadIdentity
from stepwrit.wire import GRANT_TOKEN_EXCHANGE, TOKEN_TYPE_ID, TOKEN_TYPE_TXN

FAN_OUT = 9_000  # a step has at most 10,000 children
INTENT_S = 20 * 3600
Times = dict[str, list[float]]  # seconds by verb, and of the whole `cycle`


@dataclass(slots=True, kw_only=True)
class Window:
    """What happened in one window. Seconds, and CPU seconds of both sides."""

    cycles: int
    seconds: float
    broker_user: float
    broker_system: float
    generator_cpu: float
    rss: int
    times: Times = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.cycles / self.seconds

    @property
    def cpu_us(self) -> float:
        """Broker CPU per cycle, microseconds."""
        return (self.broker_user + self.broker_system) / max(1, self.cycles) * 1e6

    @property
    def busy(self) -> float:
        """The broker's share of its core."""
        return (self.broker_user + self.broker_system) / self.seconds

    @property
    def generator_us(self) -> float:
        return self.generator_cpu / max(1, self.cycles) * 1e6

    @property
    def generator_busy(self) -> float:
        """The generator's share of its core."""
        return self.generator_cpu / self.seconds


class Target(Protocol):
    """A process under test. url: its mtls listener."""

    url: str

    async def ask(self, what: str) -> dict[str, float]:
        """`usage`: `user` and `system` CPU seconds, `rss` bytes."""
        ...


class Load:
    """Connections to one process under test, and what can be done with them."""

    def __init__(self, domain: Domain, runner: Target, lanes: int) -> None:
        self._domain, self._runner, self._count = domain, runner, lanes
        self._stack = AsyncExitStack()
        self.caller = Caller(Proofs(runner.url))
        self.lanes: list[Lane] = []
        self._made: list[int] = []

    async def __aenter__(self) -> Self:
        """Every role's connections, with its own SVID."""
        contexts = []
        for path in (AGENT, SERVER, BANK):
            identity = WorkloadIdentity(self._domain.trust.socket_for(path))
            await identity.start()
            self._stack.push_async_callback(identity.close)
            await identity.wait_ready(30.0)
            contexts.append(client_context(identity, self._domain.id(BROKER)))
        for _ in range(self._count):
            agent, server, bank = [await connect(self._runner.url, each) for each in contexts]
            self.lanes.append(Lane(agent=agent, server=server, bank=bank, parent=""))
            self._made.append(FAN_OUT)  # no intent yet
        return self

    async def __aexit__(self, *_: object) -> None:
        for lane in self.lanes:
            lane.close()
        await self._stack.aclose()

    def pretend(self) -> None:
        """The floor knows no intents: any name of a step will do, as often as wanted."""
        self._made = [-(10**9)] * self._count

    async def intents(self, cycles: int) -> None:
        """A person's intent for every lane that has no room for `cycles` more steps; outside all windows."""
        for at, lane in enumerate(self.lanes):
            if self._made[at] + cycles > FAN_OUT:
                lane.parent, self._made[at] = await self._intent(lane), 0

    async def _intent(self, lane: Lane) -> str:
        asked = {
            "v": 1,
            "purpose": "pay the March invoice",
            "ceiling": {"tools": ["ledger/*"], "impact": "high"},
            "exp": int(time.time()) + INTENT_S,
        }
        form = {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "subject_token": self._domain.issuer.mint("alice"),
            "subject_token_type": TOKEN_TYPE_ID,
            "requested_token_type": TOKEN_TYPE_TXN,
            "audience": self._domain.name,
            "request_details": json.dumps(asked),
        }
        proofs = self.caller.proofs
        proof, kind = proofs.intent_proof(), "application/x-www-form-urlencoded"
        raw = post("/oauth/token", urlencode(form).encode(), proofs.name(), proof=proof, kind=kind)
        status, body = await lane.agent.ask(raw)
        if status != 200:
            raise RefusedError(f"intent: {status} {body[:300].decode(errors='replace')}")
        step: str = json.loads(body)["step"]
        return step

    # --- windows

    async def closed(self, seconds: float, *, most: int | None = None) -> Window:
        """As much as goes, one cycle a lane at least: each begins its next when its last one has ended."""
        ends, left = time.perf_counter() + seconds, [most if most is not None else 10**9]

        async def lane_loop(at: int, note: Callable[[Cycle], Awaitable[None]]) -> None:
            begun = False
            while left[0] > 0 and self._made[at] < FAN_OUT and (not begun or time.perf_counter() < ends):
                begun = True
                left[0] -= 1
                self._made[at] += 1
                await note(Cycle(self.lanes[at]))

        return await self._window(lane_loop)

    async def paced(self, rate: float, seconds: float, seed: int = 1) -> Window:
        """Cycles arrive by chance, `rate` a second on average; waiting for a free lane counts."""
        arrived: asyncio.Queue[float | None] = asyncio.Queue()

        async def arrive() -> None:
            chance = random.Random(seed)
            began = due = time.perf_counter()
            while due < began + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                arrived.put_nowait(time.perf_counter())
                due += chance.expovariate(rate)
            for _ in self.lanes:
                arrived.put_nowait(None)

        async def lane_loop(at: int, note: Callable[..., Awaitable[None]]) -> None:
            while (came := await arrived.get()) is not None:
                self._made[at] += 1
                await note(Cycle(self.lanes[at]), came)

        task = asyncio.create_task(arrive())
        window = await self._window(lane_loop)
        await task
        return window

    async def _window(
        self, lane_loop: Callable[[int, Callable[..., Awaitable[None]]], Awaitable[None]]
    ) -> Window:
        times: Times = {name: [] for name in (*VERBS, "cycle")}
        failures: list[str] = []
        call, clock = self.caller.call, time.perf_counter

        async def note(cycle: Cycle, came: float | None = None) -> None:
            began = last = clock()
            try:
                for verb in VERBS:
                    await call(verb, cycle)
                    now = clock()
                    times[verb].append(now - last)
                    last = now
            except (RefusedError, ConnectionError) as bad:
                failures.append(str(bad))
                return
            times["cycle"].append(last - (began if came is None else came))

        async def work() -> None:
            await asyncio.gather(*(lane_loop(at, note) for at in range(len(self.lanes))))

        return await self._measured(work, times, failures, lambda: len(times["cycle"]))

    async def verb_by_verb(self, cycles: int) -> dict[str, Window]:
        """All cycles through one verb, then all through the next: what each verb costs by itself."""
        done = [Cycle(self.lanes[at % len(self.lanes)]) for at in range(cycles)]
        for at in range(cycles):
            self._made[at % len(self.lanes)] += 1
        return {verb: await self._one_verb(verb, done) for verb in VERBS}

    async def _one_verb(self, verb: str, cycles: Sequence[Cycle]) -> Window:
        times: Times = {verb: []}
        failures: list[str] = []

        async def lane_loop(mine: Sequence[Cycle]) -> None:
            for cycle in mine:
                began = time.perf_counter()
                try:
                    await self.caller.call(verb, cycle)
                    times[verb].append(time.perf_counter() - began)
                except (RefusedError, ConnectionError) as bad:
                    failures.append(str(bad))

        async def work() -> None:
            lanes = len(self.lanes)
            await asyncio.gather(*(lane_loop(cycles[at::lanes]) for at in range(lanes)))

        return await self._measured(work, times, failures, lambda: len(times[verb]))

    async def _measured(
        self,
        work: Callable[[], Awaitable[None]],
        times: Times,
        failures: list[str],
        count: Callable[[], int],
    ) -> Window:
        gc.collect()
        gc.disable()  # the generator's pauses are not the broker's
        try:
            before = await self._runner.ask("usage")
            began, own = time.perf_counter(), time.process_time()
            await work()
            seconds, own = time.perf_counter() - began, time.process_time() - own
            after = await self._runner.ask("usage")
        finally:
            gc.enable()
        if not count() and not failures:
            raise RuntimeError("nothing was measured in a window")
        return Window(
            cycles=count(),
            seconds=seconds,
            broker_user=after["user"] - before["user"],
            broker_system=after["system"] - before["system"],
            generator_cpu=own,
            rss=int(after["rss"]),
            times=times,
            failures=failures,
        )
