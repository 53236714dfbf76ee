"""RFC 7662: who learns what of a credential, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import jwt
import pytest
from tests.fakes.bearer import Bearer
from tests.fakes.stage import BANK, ISSUER, Held, Stage, new, refused
from tests.oauth.standard import FORM, WORKER, ask, bearers_token, introspected, is_active

INACTIVE = b'{"active":false}'
Deed = Callable[[Stage, Held], Awaitable[object]]


async def test_the_resource_and_the_performer_learn_what_the_credential_says(stage: Stage) -> None:
    held = await stage.held()
    said = jwt.decode(held.token, options={"verify_signature": False})
    for who in (held.bank, held.ledger, await stage.actor("operator/ops"), await stage.actor("auditor/eve")):
        assert await introspected(who, held.token) == {**said, "active": True, "token_type": "DPoP"}
    assert (said["iss"], said["aud"], said["jti"], said["txn"]) == (ISSUER, BANK, held.grant, held.txn)
    assert said["act"] == {"sub": held.ledger.id, "act": {"sub": held.opened.by.id}}
    assert said["cnf"]["jkt"]


async def test_a_caller_with_a_jwt_svid_asks_with_its_key_and_a_nonce(stage: Stage) -> None:
    worker = Bearer(stage=stage, path=WORKER)
    token = await bearers_token(stage, worker)
    reply = await worker.form({"token": token}, path="/oauth/introspect")
    assert reply.ok()["active"] is True
    assert len(reply.headers["dpop-nonce"].split(",")) == 1
    bare = await worker.form({"token": token}, path="/oauth/introspect", proof=None)
    assert (bare.status, bare.body["error"]) == (400, "invalid_dpop_proof")
    old = worker.proof("/oauth/introspect", nonce=None)
    stale = await worker.form({"token": token}, path="/oauth/introspect", proof=old)
    assert (stale.status, stale.body["error"]) == (400, "use_dpop_nonce")

    async def asked(svid: str) -> int:
        return (
            await worker.form({"token": token, "client_assertion": svid}, path="/oauth/introspect")
        ).status

    assert await asked(worker.token(audience=["https://other.example"])) == 401


async def test_the_hint_and_what_is_unknown_change_nothing(stage: Stage) -> None:
    held = await stage.held()
    for more in ({"token_type_hint": "refresh_token"}, {"token_type_hint": "?"}, {"resource_set": "x"}):
        assert (await introspected(held.bank, held.token, **more))["active"] is True


async def test_introspection_spends_nothing(stage: Stage) -> None:
    held = await stage.held()
    before = stage.broker.ledger.head()["size"]
    for _ in range(5):
        assert await is_active(held)
    assert stage.broker.ledger.head()["size"] == before
    assert (await held.redeem()).ok()


@pytest.mark.parametrize(
    "stranger",
    ["resource/shop", "agent/chat", "mcp-server/mallory", "operator/blue", "resource/blue", "agent/other"],
)
async def test_strangers_get_one_word_and_the_ledger_their_name(stage: Stage, stranger: str) -> None:
    held, who = await stage.held(), await stage.actor(stranger)
    assert await is_active(held)
    reply = await ask(who, "/oauth/introspect", held.token)
    assert (reply.status, reply.raw) == (200, INACTIVE)
    assert "stepwrit-ref" not in reply.headers
    (entry,) = stage.happened(held.txn, "refused")
    assert entry.facts is not None
    assert (entry.facts["caller"], entry.facts["code"]) == (who.id, "wrong_workload")
    assert (await held.redeem()).ok()


async def _redeem(_: Stage, held: Held) -> None:
    (await held.redeem()).ok()


async def _close(_: Stage, held: Held) -> None:
    (await held.ledger.close(held.step)).ok()


async def _close_root(stage: Stage, held: Held) -> None:
    root = (await stage.broker.store.step(held.step)).step.ancestors[0]  # type: ignore[union-attr]
    (await held.opened.by.close(root)).ok()


def _mark(verb: str, target: Callable[[Held], str]) -> Deed:
    async def deed(stage: Stage, held: Held) -> None:
        (await stage.mark(verb, target(held))).ok()

    return deed


ENDS: dict[str, Deed] = {
    "redeemed": _redeem,
    "its step closed": _close,
    "its intent closed": _close_root,
    "grant revoked": _mark("revoke", lambda held: f"grant:{held.grant}"),
    "step revoked": _mark("revoke", lambda held: f"step:{held.step}"),
    "transaction revoked": _mark("revoke", lambda held: f"txn:{held.txn}"),
}
FREEZES: dict[str, Callable[[Held], str]] = {
    "performer": lambda held: f"workload:{held.ledger.id}",
    "initiator": lambda held: f"workload:{held.opened.by.id}",
    "tool": lambda _: "tool:ledger/transfer",
    "resource": lambda _: f"resource:{BANK}",
    "key": lambda held: f"key:{held.ledger.key.thumbprint}",
}


@pytest.mark.parametrize("deed", ENDS.values(), ids=ENDS.keys())
async def test_what_ended_is_inactive_at_once_and_nobody_hears_why(stage: Stage, deed: Deed) -> None:
    held = await stage.held()
    assert await is_active(held)
    await deed(stage, held)
    for who in (held.bank, held.ledger):
        reply = await ask(who, "/oauth/introspect", held.token)
        assert (reply.status, reply.raw) == (200, INACTIVE)
    assert (await held.redeem()).status >= 400


@pytest.mark.parametrize("target", FREEZES.values(), ids=FREEZES.keys())
async def test_what_is_frozen_is_inactive_until_the_thaw(stage: Stage, target: Callable[[Held], str]) -> None:
    held = await stage.held()
    assert await is_active(held)
    (await stage.mark("freeze", target(held))).ok()
    try:
        assert not await is_active(held)
    finally:
        (await stage.mark("unfreeze", target(held))).ok()
    assert await is_active(held)
    assert (await held.redeem()).ok()


async def test_a_new_epoch_ends_it_too(stage: Stage) -> None:
    held = await stage.held()
    assert await is_active(held)
    await stage.restart()
    assert not await is_active(held)
    assert await is_active(await stage.held())


async def test_what_is_no_credential_of_ours_is_inactive(stage: Stage) -> None:
    held = await stage.held()
    assert await is_active(held)
    head, claims, signature = held.token.split(".")
    forged = f"{head}.{claims}.{signature[::-1]}"
    stranger = jwt.encode({"jti": held.grant}, "k" * 32, "HS256")
    for token in (forged, stranger, held.opened.token, held.step, held.grant, "x", "..", "é", "a" * 20_000):
        reply = await ask(held.bank, "/oauth/introspect", token)
        assert (reply.status, reply.raw) == (200, INACTIVE), token[:80]


async def test_without_a_token_or_a_right_to_ask_there_is_an_error(stage: Stage) -> None:
    held = await stage.held()
    assert await is_active(held)
    none = await held.bank.send("POST", "/oauth/introspect", b"token=", {"Content-Type": FORM})
    assert (none.status, none.body["error"]) == (400, "invalid_request")
    as_json = json.dumps({"token": held.token}).encode()
    other = await held.bank.send("POST", "/oauth/introspect", as_json, {"Content-Type": "application/json"})
    assert (other.status, other.body["error"]) == (400, "invalid_request")
    assert (await held.bank.send("GET", "/oauth/introspect", b"", {})).status == 405
    unknown = await ask(await stage.actor("agent/nobody"), "/oauth/introspect", held.token)
    assert (unknown.status, unknown.body["error"]) == (401, "invalid_client")
    named = await ask(held.bank, "/oauth/introspect", held.token, client_id=held.ledger.id)
    assert (named.status, named.body["error"]) == (401, "invalid_client")
    secret = await ask(held.bank, "/oauth/introspect", held.token, client_secret=new())
    refused(stage, secret, "invalid_request")


async def test_time_ends_it_too(stage: Stage) -> None:
    held = await stage.held()
    assert await is_active(held)
    stage.pass_time(61)
    assert not await is_active(held)
