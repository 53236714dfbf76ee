"""What the tests of the standard faces share: a workload with JWT-SVIDs alone, and the two new verbs."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from tests.fakes.bearer import Bearer
from tests.fakes.stage import BANK, Actor, Held, Opened, Reply, Stage, accept_body, credential_form

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


async def bearers_step(stage: Stage, worker: Bearer) -> Opened:
    """A step of the worker's, accepted with nothing but a JWT-SVID."""
    planner = await stage.actor(PLANNER)
    ceiling = CeilingSpec(tools=("worker/*",), impact="high")
    opened = await planner.open((await planner.intent(ceiling=ceiling))["step"], "worker/pay")
    (await worker.json(f"/v1/steps/{opened.step}/accept", accept_body(opened))).ok()
    return opened


async def bearers_token(stage: Stage, worker: Bearer) -> str:
    """A credential of the worker's, got with nothing but a JWT-SVID."""
    opened = await bearers_step(stage, worker)
    return str((await worker.form(credential_form(opened.step))).ok()["access_token"])


async def is_active(held: Held) -> bool:
    return bool((await introspected(held.bank, held.token))["active"])
