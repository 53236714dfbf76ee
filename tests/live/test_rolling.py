"""Two broker processes behind a load balancer, restarted one after the other: no call of the SDK fails."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
from tests.faults.process import Process
from tests.faults.world import AGENT, BASE, BROKER, CLIENT, SERVER, World, spiffe
from tests.rigs.balancer import Backend, Balancer, balancer
from tests.rigs.engines import ACCEPTED, Engines, engines

from stepwrit._transport import Attested, HttpTransport
from stepwrit.client import Broker, Parts, Subject
from stepwrit.digest import args_digest
from stepwrit.dpop import make_step_proof
from stepwrit.identity import WorkloadIdentity
from stepwrit.wire import TOKEN_TYPE_ID, AcceptRequest, CeilingSpec, IntentRequest, OpenStepRequest
from stepwrit_broker.dev.ports import steady_port

CALLERS = 4
DRAIN_S = 2.0


def process(world: World, engines: Engines, name: str) -> tuple[Process, Backend]:
    """`stepwrit broker --config` with `[fleet]`."""
    mtls, ops = steady_port(), steady_port()
    accept = ", ".join(f'"{each}"' for each in ACCEPTED)
    fleet = (
        f'[fleet]\nredis = "{engines.redis.url}"\npostgres = "{engines.postgres.dsn}"\n'
        f'broker = "{name}"\nshards = 4\naccept = [{accept}]\n'
    )
    config = world.config(name, mtls, ops, fleet)
    program = Path(sys.executable).with_name("stepwrit")
    made = Process(
        name,
        [str(program), "broker", "--config", str(config)],
        log=world.folder / f"{name}.log",
        environ={"STEPWRIT_LISTEN_DRAIN_S": str(DRAIN_S)},
    )
    return made, Backend(mtls, f"http://127.0.0.1:{ops}")


async def client(world: World, path: str, port: int, stack: AsyncExitStack) -> Broker:
    identity = WorkloadIdentity(world.socket(path))
    transport = HttpTransport(f"https://127.0.0.1:{port}", identity, spiffe(BROKER))
    return await stack.enter_async_context(Broker(transport, Attested(identity), Parts(base_url=BASE)))


class Callers:
    """Agents that open steps, and a server that performs them, for as long as they may."""

    def __init__(self, agent: Broker, server: Broker, root: str) -> None:
        self.agent, self.server, self.root = agent, server, root
        self.stop = asyncio.Event()
        self.done = 0

    async def run(self) -> None:
        while not self.stop.is_set():
            args: dict[str, object] = {"amount": self.done}
            asked = OpenStepRequest(parent=self.root, server="ledger", tool="refund", args=args)
            opened = await self.agent.open(asked)
            proof = make_step_proof(
                self.agent.key,
                token=opened.token,
                args=args_digest(args),
                round=1,
                now=self.agent.now(),
                jti=self.agent.random_id(),
            )
            request = AcceptRequest(token=opened.token, proof=proof, args=args_digest(args), round=1)
            await self.server.accept(opened.step, request)
            await self.server.heartbeat(opened.step)
            await self.server.close_step(opened.step, "done")
            self.done += 1
            await asyncio.sleep(0.3)


async def root(agent: Broker, world: World) -> str:
    """An intent of a person."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        minted = await http.post(f"{world.issuer.url}/mint", json={"sub": "alice", "client_id": CLIENT})
    wanted = IntentRequest(
        purpose="pay",
        ceiling=CeilingSpec(tools=("ledger/*",), impact="medium"),
        exp=int(time.time()) + 900,
    )
    granted = await agent.start_intent(Subject(token=minted.json()["id_token"], kind=TOKEN_TYPE_ID), wanted)
    return granted.step


@pytest.mark.live
async def test_a_rolling_restart_fails_nobody(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        both = await stack.enter_async_context(engines(tmp_path))
        world = World(tmp_path / "world")
        world.folder.mkdir()
        await world.start()
        stack.push_async_callback(world.stop)
        limits = world.folder / "limits.yaml"
        limits.write_text(
            limits.read_text().replace("steps: 12", "steps: 5000").replace("fan_out: 10", "fan_out: 5000")
        )
        made = [process(world, both, name) for name in ("one", "two")]
        front = await stack.enter_async_context(balancer(*(backend for _, backend in made)))
        for count, (each, _) in enumerate(made, 1):  # the first makes the log's key
            await each.start()
            stack.push_async_callback(each.end)
            await ready(front, count, each)
        agents = [await client(world, AGENT, front.port, stack) for _ in range(CALLERS)]
        servers = [await client(world, SERVER, front.port, stack) for _ in range(CALLERS)]
        crowd = [
            Callers(agent, server, await root(agent, world))
            for agent, server in zip(agents, servers, strict=True)
        ]
        async with asyncio.TaskGroup() as group:
            for caller in crowd:
                group.create_task(caller.run())
            for each, _ in made:
                await done_more(crowd, 3)
                await each.end()
                await ready(front, 1, each)
                await done_more(crowd, 3)
                await each.start()
                await ready(front, 2, each)
            await done_more(crowd, 3)
            for caller in crowd:
                caller.stop.set()
        assert all(backend.taken for _, backend in made)


async def ready(front: Balancer, count: int, of: Process) -> None:
    """So many brokers serve; else what the one that was started or ended said last."""
    try:
        async with asyncio.timeout(60):
            await front.until_ready(count)
    except TimeoutError:
        pytest.fail(of.last_words())


async def done_more(crowd: list[Callers], count: int) -> None:
    """Each of them has gone round that often."""
    wanted = [caller.done + count for caller in crowd]
    while any(caller.done < want for caller, want in zip(crowd, wanted, strict=True)):
        await asyncio.sleep(0.05)
