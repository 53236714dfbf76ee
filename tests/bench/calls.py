"""`python -m tests.bench.calls [--json]`: what a guard adds to a tool call, and how fast a revoked tree ends.

A real broker process on the first core. On the second: an agent and two MCP servers over streamable HTTP with
the same tool that is its own resource, one guarded and one bare, called in turn over kept-alive connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio
import uvicorn
import uvloop
from mcp import Client
from mcp.server.mcpserver import MCPServer
from tests.bench import quiet  # noqa: F401  comes first
from tests.bench.report import percentile, table
from tests.bench.world import AGENT, BROKER, SERVER, Cores, Domain, Runner, running

from stepwrit import agent
from stepwrit._alive import StoppedError
from stepwrit._outgoing import OutgoingStep, open_outgoing
from stepwrit._transport import HttpTransport
from stepwrit.client import Broker, Parts
from stepwrit.digest import args_digest
from stepwrit.flow import Request, Response
from stepwrit.identity import WorkloadIdentity
from stepwrit.lineage import Step, from_meta
from stepwrit.mcp import Stepwrit
from stepwrit.wire import AcceptRequest, MarkRequest
from stepwrit_broker.dev.broker import dev_id
from stepwrit_broker.ledger.view import SqliteLedgerView

AIM_MS = 5.0
WINDOW = 20  # calls; long enough to be in step, short enough that both sides see the same machine
WIDE, DEEP = 50, 10
NOTE: dict[str, object] = {"text": "paid the March invoice"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Milliseconds. verbs: p50 of what the guard asks of the broker for one call, by name.

    cpu: what a guarded call takes more of the callers' and servers' core; broker_cpu: and of the broker's.
    """

    calls: int
    bare_p50: float
    bare_p99: float
    guarded_p50: float
    guarded_p99: float
    added_p50: float
    added_p99: float
    cpu: float
    broker_cpu: float
    verbs: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """Milliseconds till the mark was in force, the ledger had all ends, and every body had stopped."""

    steps: int
    in_force: float
    on_record: float
    stopped: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The broker, and those who talk to it."""

    domain: Domain
    runner: Runner
    agent: agent.Broker
    server: Broker


class Timed(HttpTransport):
    """Notes how long each request took."""

    def __init__(self, base_url: str, identity: WorkloadIdentity) -> None:
        super().__init__(base_url, identity, dev_id(BROKER))
        self.took: dict[str, list[float]] = {}

    async def send(self, request: Request) -> Response:
        """One exchange."""
        began = time.perf_counter()
        response = await super().send(request)
        verb = "open" if request.path == "/v1/steps" else request.path.rpartition("/")[2]
        self.took.setdefault(verb, []).append(time.perf_counter() - began)
        return response


@asynccontextmanager
async def scene(folder: Path, profile: Path | None = None) -> AsyncGenerator[tuple[Scene, list[Timed]]]:
    """Started and ended whole."""
    cores = Cores.here()
    if cores.generator is not None:
        os.sched_setaffinity(0, {cores.generator})
    async with AsyncExitStack() as stack:
        domain = Domain(folder)
        await domain.start()
        stack.push_async_callback(domain.stop)
        given = {**domain.settings(cores.broker), "profile": str(profile) if profile else None}
        runner: Runner = await stack.enter_async_context(running("broker", given))
        ways: list[Timed] = []
        for path in (AGENT, SERVER):
            identity = WorkloadIdentity(domain.trust.socket_for(path))
            await identity.start()
            stack.push_async_callback(identity.close)
            await identity.wait_ready(30.0)
            ways.append(Timed(runner.url, identity))
            stack.push_async_callback(ways[-1].close)
        parts = Parts(base_url=runner.url)
        yield (
            Scene(
                domain=domain,
                runner=runner,
                agent=agent.Broker(ways[0], dev_id(AGENT), parts),
                server=Broker(ways[1], dev_id(SERVER), parts),
            ),
            ways,
        )


def note_server(name: str, guard: Stepwrit | None) -> MCPServer:
    """One tool that does next to nothing."""
    server = MCPServer(name, extensions=[] if guard is None else [guard], log_level="ERROR")

    @server.tool()
    async def note(text: str) -> str:
        return text

    return server


@asynccontextmanager
async def served(server: MCPServer) -> AsyncGenerator[str]:
    """The server on a loopback port; its URL."""
    app = server.streamable_http_app(stateless_http=True, json_response=True)
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        running.should_exit = True
        await task


async def calls(made: Scene, ways: list[Timed], count: int) -> Calls:
    """Windows of bare and guarded calls in turn, one call at a time."""
    bare: list[float] = []
    guarded: list[float] = []
    async with AsyncExitStack() as stack:
        plain_url = await stack.enter_async_context(served(note_server("plain", None)))
        ours_url = await stack.enter_async_context(
            served(note_server("ledger", Stepwrit(made.server, name="ledger")))
        )
        plain = await stack.enter_async_context(Client(plain_url))
        ours = await stack.enter_async_context(Client(ours_url))
        intent = await stack.enter_async_context(
            made.agent.intent(made.domain.issuer.mint("alice"), purpose="notes", tools=["ledger/*"])
        )
        intent.guard(ours, "ledger")
        for client in (plain, ours):
            await _window(client, WINDOW)
        for way in ways:
            way.took.clear()
        cpu, used = [0.0, 0.0], await _broker_cpu(made.runner)
        while len(guarded) < count:
            for at, (client, times) in enumerate(((plain, bare), (ours, guarded))):
                began = time.process_time()
                times.extend(await _window(client, WINDOW))
                cpu[at] += time.process_time() - began
        used = await _broker_cpu(made.runner) - used
    verbs = {verb: _ms(took, 0.5) for way in ways for verb, took in way.took.items() if len(took) >= count}
    return Calls(
        calls=len(guarded),
        bare_p50=_ms(bare, 0.5),
        bare_p99=_ms(bare, 0.99),
        guarded_p50=_ms(guarded, 0.5),
        guarded_p99=_ms(guarded, 0.99),
        added_p50=round(_ms(guarded, 0.5) - _ms(bare, 0.5), 2),
        added_p99=round(_ms(guarded, 0.99) - _ms(bare, 0.99), 2),
        cpu=round((cpu[1] - cpu[0]) / len(guarded) * 1e3, 2),
        broker_cpu=round(used / len(guarded) * 1e3, 2),
        verbs=verbs,
    )


async def _broker_cpu(runner: Runner) -> float:
    usage = await runner.ask("usage")
    return usage["user"] + usage["system"]


async def _window(client: Client, count: int) -> list[float]:
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        result = await client.call_tool("note", dict(NOTE))
        took.append(time.perf_counter() - began)
        if result.is_error:
            raise SystemExit(f"a call failed, nothing is measured: {result}")
    return took


async def cascade(made: Scene, wide: int, deep: int) -> Cascade:
    """A tree of `wide` chains, each `deep` steps, every body running; then its root is revoked."""
    stopped: list[float] = []
    running = anyio.Event()
    inside = 0

    async def body() -> None:
        nonlocal inside
        inside += 1
        if inside == wide * deep:
            running.set()
        await anyio.sleep_forever()

    async def run(step: Step) -> None:
        try:
            await made.server.alive.beside(step, body)
        except StoppedError:
            stopped.append(time.perf_counter())

    async def chain(first: OutgoingStep, group: asyncio.TaskGroup) -> None:
        out = first
        for at in range(deep):
            step = await _accepted(made.server, out)
            group.create_task(run(step))
            if at + 1 < deep:
                out = await open_outgoing(made.server, step.id, "ledger", "note", dict(NOTE))

    intent = made.agent.intent(made.domain.issuer.mint("alice"), purpose="a tree", tools=["ledger/*"])
    async with intent as root, asyncio.TaskGroup() as group:
        for _ in range(wide):
            await chain(await root.open("ledger", "note", dict(NOTE)), group)
        await running.wait()
        await asyncio.sleep(1.0)  # long-running: somebody listens
        began = time.perf_counter()
        await made.agent.mark(MarkRequest(verb="revoke", target=f"step:{root.step}", reason="the bench"))
        in_force = time.perf_counter()
        recorded = await _on_record(made.domain.folder / "store" / "stepwrit.db", root.txn, wide * deep + 1)
        while len(stopped) < wide * deep:
            await asyncio.sleep(0.001)
    times = ((each - began) * 1e3 for each in (in_force, recorded, max(stopped)))
    a, b, c = (round(each, 1) for each in times)
    return Cascade(steps=wide * deep, in_force=a, on_record=b, stopped=c)


async def _accepted(server: Broker, out: OutgoingStep) -> Step:
    carried = from_meta(await out.meta())
    if carried is None:
        raise SystemExit("the broker gave no step token")
    request = AcceptRequest(token=carried.token, proof=carried.proof, args=args_digest(dict(NOTE)))
    return Step(server, await server.accept(out.step, request))


async def _on_record(store: Path, txn: str, steps: int) -> float:
    """When the ledger has all ends of the transaction, read beside the broker."""

    def wait() -> float:
        view = SqliteLedgerView(store)
        try:
            while sum(entry.kind == "step.closed" for entry in view.of_txn(txn)) < steps:
                time.sleep(0.002)
            return time.perf_counter()
        finally:
            view.close()

    return await asyncio.to_thread(wait)


def _ms(values: list[float], share: float) -> float:
    return round(percentile(values, share) * 1e3, 2)


async def bench(count: int, wide: int, deep: int, folder: Path) -> tuple[Calls, Cascade]:
    """Both, on one broker."""
    async with scene(folder) as (made, ways):
        called = await calls(made, ways, count)
        return called, await cascade(made, wide, deep)


def text(called: Calls, ended: Cascade) -> str:
    """Two tables."""
    met = "yes" if called.added_p50 < AIM_MS else "NO"
    rows = [
        ("bare call, ms", f"{called.bare_p50:.2f}", f"{called.bare_p99:.2f}", "", ""),
        ("guarded call, ms", f"{called.guarded_p50:.2f}", f"{called.guarded_p99:.2f}", "", ""),
        ("  added, ms", f"{called.added_p50:.2f}", f"{called.added_p99:.2f}", f"p50 < {AIM_MS:.0f}", met),
        ("  of it CPU here, mean, ms", f"{called.cpu:.2f}", "", "", ""),
        ("  and in the broker, mean, ms", f"{called.broker_cpu:.2f}", "", "", ""),
        *(
            (f"  waiting for {verb}, ms", f"{p50:.2f}", "", "", "")
            for verb, p50 in sorted(called.verbs.items())
        ),
    ]
    ends = [
        ("the mark is in force", f"{ended.in_force:.0f}"),
        ("the ledger has all ends", f"{ended.on_record:.0f}"),
        ("every running body has stopped", f"{ended.stopped:.0f}"),
    ]
    head = ("one tool call, own resource", "p50", "p99", "aim", "met")
    cascade_head = (f"a revoked root with {ended.steps} running steps", "ms")
    return f"{table(head, rows)}\n\n{table(cascade_head, ends)}"


def hush() -> None:
    """Log lines cost more than what is measured."""
    for name in ("stepwrit", "mcp", "httpx2"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main() -> int:
    """Run and print; the exit code says only whether everything succeeded."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calls", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--calls", type=int, default=500, help="calls of each kind (default 500)")
    parser.add_argument("--wide", type=int, default=WIDE, help=f"chains of the tree (default {WIDE})")
    parser.add_argument("--deep", type=int, default=DEEP, help=f"steps of a chain (default {DEEP})")
    asked = parser.parse_args()
    hush()
    with tempfile.TemporaryDirectory(prefix="sw-") as folder:
        called, ended = uvloop.run(bench(asked.calls, asked.wide, asked.deep, Path(folder)))
    told = {"call": asdict(called), "cascade": asdict(ended)}
    print(json.dumps(told) if asked.json else text(called, ended))
    return 0


if __name__ == "__main__":
    sys.exit(main())
