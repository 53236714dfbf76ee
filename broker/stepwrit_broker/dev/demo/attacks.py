"""Six things that must not work, each tried for real, each after the same thing done rightly."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx2
from mcp.client.client import Client

from stepwrit.agent import Intent
from stepwrit.client import Broker as Workload
from stepwrit.digest import args_digest, body_digest
from stepwrit.dpop import make_proof, token_hash
from stepwrit.errors import RefusedError
from stepwrit.wire import ACTION_TYPE, META_REFUSAL, META_STEP, AcceptRequest, OpenStepRequest, RequestDetails
from stepwrit_broker.dev.demo.stage import Stage

BODY = b'{"invoice":43,"cents":900}'
ARGS: dict[str, object] = {"invoice": 43, "cents": 900}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What the one who tried it saw."""

    code: str
    reason: str
    ref: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A step that the ledger server performs, and a credential that it got for it, in our hands."""

    step: str
    token: str
    credential: str
    url: str


async def hold(stage: Stage, intent: Intent, ledger: Workload) -> Held:
    """Play the ledger server by its own identity: accept a step, get its credential."""
    out = await intent.open("ledger", "pay_invoice", dict(ARGS))
    sent = (await out.meta())[META_STEP]
    if not isinstance(sent, dict):
        raise TypeError("the SDK made no step")
    token, proof = str(sent["token"]), str(sent["proof"])
    await ledger.accept(out.step, AcceptRequest(token=token, proof=proof, args=args_digest(ARGS)))
    url = f"{stage.bank}/v1/transfers"
    details = RequestDetails(type=ACTION_TYPE, method="POST", url=url, body=body_digest(BODY))
    granted = await ledger.credential(step=out.step, resource=stage.bank, details=details)
    return Held(step=out.step, token=token, credential=granted.access_token, url=url)


async def present(held: Held, by: Workload, body: bytes = BODY) -> Refused | None:
    """Send the credential to the bank with a fresh proof by `by`'s key; None when the bank did it."""
    proof = make_proof(by.key, "POST", held.url, by.now(), by.random_id(), ath=token_hash(held.credential))
    headers = {"Authorization": f"DPoP {held.credential}", "DPoP": proof, "Content-Type": "application/json"}
    async with httpx2.AsyncClient() as http:
        answer = await http.post(held.url, content=body, headers=headers)
    if answer.status_code == 200:
        return None
    refusal = answer.json()["refusal"]
    return Refused(code=refusal["code"], reason=refusal["reason"], ref=refusal.get("ref"))


async def refused(deed: Callable[[], Awaitable[object]]) -> Refused | None:
    """The refusal of a deed by the SDK; None when it was done."""
    try:
        await deed()
    except RefusedError as no:
        return Refused(code=no.refusal.code, reason=no.refusal.reason, ref=no.refusal.ref)
    return None


async def replay(held: Held, ledger: Workload) -> tuple[Refused | None, Refused | None]:
    """Once, then again: (the right use, the replay)."""
    return await present(held, ledger), await present(held, ledger)


async def changed_argument(stage: Stage, intent: Intent) -> Refused | None:
    """The step says 1 cent, the call says 100,000: the server's SDK sees what arrived."""
    out = await intent.open("ledger", "pay_invoice", {"invoice": 44, "cents": 1})
    async with Client(stage.mcp("ledger")) as client:
        meta = await out.meta()
        result = await client.call_tool("pay_invoice", {"invoice": 44, "cents": 100_000}, meta=meta)  # type: ignore[arg-type]
    found = (result.meta or {}).get(META_REFUSAL)
    return from_meta(found)


def from_meta(found: object) -> Refused | None:
    """The refusal in a tool result's `_meta`."""
    if not isinstance(found, dict):
        return None
    return Refused(code=str(found["code"]), reason=str(found["reason"]), ref=found.get("ref"))


async def other_workload(stage: Stage, held: Held) -> Refused | None:
    """Another attested server asks for a credential of a step that is not its own."""
    details = RequestDetails(type=ACTION_TYPE, method="POST", url=held.url, body=body_digest(BODY))
    async with stage.workload("mcp-server/mallory") as mallory:
        return await refused(lambda: mallory.credential(step=held.step, resource=stage.bank, details=details))


async def stolen(stage: Stage, held: Held) -> Refused | None:
    """Another attested server presents a stolen credential with its own key."""
    async with stage.workload("mcp-server/mallory") as mallory:
        await mallory.ready()
        return await present(held, mallory)


async def unattested(stage: Stage) -> Refused | None:
    """No certificate: the handshake itself is refused, so what the caller saw is all there is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with httpx2.AsyncClient(verify=context) as http:
        try:
            await http.post(f"{stage.dev.broker.mtls_url}/v1/steps", content=b"{}")
        except (httpx2.TransportError, ssl.SSLError) as error:
            return Refused(code="unattested", reason=_plain(error), ref=None)
    return None


def _plain(error: Exception) -> str:
    text = str(error).lower()
    return (
        "the TLS handshake demands a client certificate"
        if "certificate" in text
        else "the connection was refused"
    )


async def claims_to_be_model(held: Held, ledger: Workload) -> Refused | None:
    """A server says of its own step that the model started it."""
    asked = OpenStepRequest(
        parent=held.step, server="audit", tool="record", args={"month": "x"}, origin="model"
    )
    return await refused(lambda: ledger.open(asked))


async def under_foreign_step(stage: Stage, intent: Intent) -> Refused | None:
    """A server opens below the agent's own root, so that its step would look like the model's."""
    asked = OpenStepRequest(parent=intent.step, server="audit", tool="record", args={"month": "x"})
    async with stage.workload("mcp-server/mallory") as mallory:
        return await refused(lambda: mallory.open(asked))
