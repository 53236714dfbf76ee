"""What the tests of the standard faces share: a workload with JWT-SVIDs alone, and the two new verbs."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlencode

from tests.fakes.bearer import Bearer
from tests.fakes.stage import BANK, Actor, Held, Opened, Reply, Stage, accept_body, credential_form
from tests.oauth.foreign import ProofKey

from stepwrit.wire import CeilingSpec

FORM = "application/x-www-form-urlencoded"
PLANNER, WORKER = "agent/planner", "mcp-server/worker"
BEARER_ENTRIES: list[dict[str, Any]] = [
    {"id": PLANNER, "role": "agent", "name": "planner", "clients": ["planner-app"],
     "may_start": {"tools": ["worker/*"], "impact": "high"}},
    {"id": WORKER, "role": "mcp-server", "name": "worker", "attest": ["jwt", "x509"],
     "tools": {"pay": {"impact": "medium",
                       "plan": [{"at": BANK, "request": "POST /v1/transfers", "times": 5}]}}},
    {"id": "auditor/eve", "role": "auditor", "name": "eve"},
]  # fmt: skip


async def ask(actor: Actor, path: str, token: str, **more: str) -> Reply:
    """A form at one of the two endpoints, as a standard client sends it: no key proof, no Idempotency-Key."""
    body = urlencode({"token": token, **more}).encode()
    return await actor.send("POST", path, body, {"Content-Type": FORM})


async def introspected(actor: Actor, token: str, **more: str) -> dict[str, Any]:
    reply = await ask(actor, "/oauth/introspect", token, **more)
    assert reply.status == 200, reply.raw
    assert reply.headers["cache-control"] == "no-store"
    return reply.body


async def revoked(actor: Actor, token: str, **more: str) -> Reply:
    return await ask(actor, "/oauth/revoke", token, **more)


async def for_the_worker(stage: Stage) -> Opened:
    """A step that waits for the worker."""
    planner = await stage.actor(PLANNER)
    ceiling = CeilingSpec(tools=("worker/*",), impact="high")
    return await planner.open((await planner.intent(ceiling=ceiling))["step"], "worker/pay")


async def workers_step(stage: Stage) -> Opened:
    """A step of the worker's, accepted with its certificate."""
    opened = await for_the_worker(stage)
    (await (await stage.actor(WORKER)).accept(opened)).ok()
    return opened


async def bearers_step(stage: Stage, worker: Bearer) -> Opened:
    """A step of the worker's, accepted with nothing but a JWT-SVID."""
    opened = await for_the_worker(stage)
    (await worker.json(f"/v1/steps/{opened.step}/accept", accept_body(opened))).ok()
    return opened


async def bearers_token(stage: Stage, worker: Bearer) -> str:
    """A credential of the worker's, got with nothing but a JWT-SVID."""
    opened = await bearers_step(stage, worker)
    return str((await worker.form(credential_form(opened.step))).ok()["access_token"])


async def is_active_at(stage: Stage, token: str) -> bool:
    """What the bank hears."""
    return bool((await introspected(await stage.actor("resource/bank/1"), token))["active"])


def free_port() -> int:
    """A port that was free a moment ago, for an issuer that has to be known before it is bound."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


async def is_active(held: Held) -> bool:
    return bool((await introspected(held.bank, held.token))["active"])


async def workers_credential(stage: Stage) -> tuple[Opened, ProofKey, str]:
    """A step of the worker's, a key that is not of the SDK's making, and a credential bound to it."""
    opened, key, worker = await workers_step(stage), ProofKey(), await stage.actor(WORKER)
    proof = key.proof("POST", f"{stage.url}/oauth/token")
    return opened, key, (await worker.credential(opened.step, proof=proof)).ok()["access_token"]
