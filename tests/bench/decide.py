"""`python -m tests.bench.decide [--json]`: what one decision costs, embedded and asked of an OPA server.

Every question differs in a fact that a rule reads, so nothing is answered from what was kept, except where
that is what is measured. Windows of engine and floor alternate. The floors: of Cedar the library called with
the same context and one statement; of OPA the same connection, asked about nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cedarpy
from tests.bench.policies import policy
from tests.bench.report import percentile
from tests.policy.opa_process import running_opa
from tests.policy.world import Scene, issuing

from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.core.verdict import Permit, Question
from stepwrit_broker.dev.tools import ToolMissing, find
from stepwrit_broker.policy.files import compile_policy, load
from stepwrit_broker.policy.opa import Opa
from stepwrit_broker.policy.opa_http import OpaHttp, OpaServer
from stepwrit_broker.ports import PolicyEngine

STATEMENTS = 200
WINDOW = 50  # decisions; long enough to be in step, short enough that both sides see the same machine
Deed = Callable[[Question], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Microseconds of one decision. cpu: of this thread, mean. ratio: p50 over the floor's p50."""

    what: str
    statements: int
    p50: float
    p99: float
    cpu: float
    floor_p50: float
    ratio: float


def questions(count: int, first: int = 0) -> list[Question]:
    """Credentials for the same step, each with another amount."""
    scene = Scene(origin="model", impact="low")
    return [issuing(replace(scene, facts=(("amount", first + at),))) for at in range(count)]


async def measure(what: str, statements: int, deed: Deed, floor: Deed, asked: Sequence[Question]) -> Row:
    """Both sides, window by window."""
    took, bare, cpu = list[float](), list[float](), 0.0
    for at in range(0, len(asked), WINDOW):
        window = asked[at : at + WINDOW]
        began = time.thread_time()
        took += [await _timed(deed, each) for each in window]
        cpu += time.thread_time() - began
        bare += [await _timed(floor, each) for each in window]
    p50, floor_p50 = percentile(took, 0.5), percentile(bare, 0.5)
    return Row(
        what=what,
        statements=statements,
        p50=round(p50, 1),
        p99=round(percentile(took, 0.99), 1),
        cpu=round(cpu / len(asked) * 1e6, 1),
        floor_p50=round(floor_p50, 1),
        ratio=round(p50 / floor_p50, 2),
    )


async def _timed(deed: Deed, question: Question) -> float:
    began = time.perf_counter()
    await deed(question)
    return (time.perf_counter() - began) * 1e6


async def embedded(rounds: int, statements: int) -> list[Row]:
    """Cedar: an operator's policy, its worst case, the stance alone, and verdicts that were kept."""
    rows = list[Row]()
    asked, again = questions(rounds), questions(1) * rounds
    for what, count, everywhere, these in (
        ("embedded", statements, False, asked),
        ("embedded, every statement about everything", statements, True, asked),
        ("embedded, the stance and one rule", 11, False, asked),
        ("embedded, a verdict that was kept", statements, False, again),
    ):
        engine = compile_policy(load(policy("cedar", count, everywhere=everywhere)).doc, 1)
        await _permits(engine)
        rows.append(await measure(what, count, engine.decide, cedar_floor(), these))
    return rows


async def _permits(engine: PolicyEngine) -> None:
    """What is measured is a permit; and the first decision of all is not measured."""
    for question in questions(WINDOW, first=10**6):
        if not isinstance(await engine.decide(question), Permit):
            raise SystemExit("the bench's own policy does not permit: nothing is measured")


def cedar_floor() -> Deed:
    """The library, called as the engine calls it, with one statement and a context that is ready."""
    one = cedarpy.PolicySet.from_str('@id("yes") permit (principal, action, resource);')
    nobody = cedarpy.Entities.from_json_str("[]")
    context = json.dumps({"facts": {"amount": 5}, "origin": "model", "depth": 1, "attested_by": "x509"})

    async def floor(question: Question) -> object:
        request = {
            "principal": {"type": "Stepwrit::Workload", "id": question.principal},
            "action": {"type": "Stepwrit::Action", "id": question.asking},
            "resource": {"type": "Stepwrit::Tool", "id": question.resource},
            "context": context,
        }
        return cedarpy.is_authorized(request, one, nobody)

    return floor


async def asked_of_opa(rounds: int, statements: int) -> list[Row]:
    """A real OPA on a Unix socket; none where `make tools` has not built one."""
    try:
        find("opa")
    except ToolMissing:
        return []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sw-")))
        server = OpaServer(url=(await stack.enter_async_context(running_opa(folder))).url, timeout_s=5.0)
        opa, bare = Opa(server, elapsed_s), OpaHttp(server)
        stack.push_async_callback(opa.aclose)
        stack.push_async_callback(bare.aclose)
        engine = compile_policy(load(policy("opa", statements)).doc, 1, opa)
        await _permits(engine)

        async def floor(question: Question) -> object:
            return await bare.query("stepwrit/nothing", b'{"input":{}}')

        return [await measure("OPA, Unix socket", statements, engine.decide, floor, questions(rounds))]


async def bench(rounds: int, statements: int) -> list[Row]:
    """Everything, one after the other."""
    return [*await embedded(rounds, statements), *await asked_of_opa(rounds, statements)]


def table(rows: Sequence[Row]) -> str:
    """For people."""
    names = ("statements", "p50", "p99", "cpu", "floor_p50", "ratio")
    lines = [f"{'one decision, µs':<44}" + "".join(f"{name:>11}" for name in names)]
    lines += [f"{row.what:<44}" + "".join(f"{getattr(row, name):>11}" for name in names) for row in rows]
    if not any(row.what.startswith("OPA") for row in rows):
        lines.append("no OPA: `make tools` builds one")
    return "\n".join(lines)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.decide", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--rounds", type=int, default=3000, help="decisions of each kind (default 3000)")
    parser.add_argument("--statements", type=int, default=STATEMENTS, help="of the policy (default 200)")
    asked = parser.parse_args(sys.argv[1:] if given is None else given)
    rows = asyncio.run(bench(asked.rounds, asked.statements))
    print(json.dumps({"decisions": [asdict(row) for row in rows]}) if asked.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
