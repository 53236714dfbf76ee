"""Erasing a transaction: what is gone is gone, the tree stands; not what is not theirs, nor what lives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator

import pytest_asyncio
from tests.fakes.stage import ENTRIES, Reply, Stage, new

from stepwrit_broker.cli.render import story_view
from stepwrit_broker.ledger.verify import verify_database

AUDITOR = {"id": "auditor/all", "role": "auditor", "name": "auditor"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncGenerator[Stage]:
    async with Stage(entries=[*ENTRIES, AUDITOR]) as stage:
        yield stage


async def erase(stage: Stage, name: str) -> Reply:
    body = {"name": name, "reason": "request 4711"}
    return await stage.admin("POST", "/v1/admin/ledger/erase", body)


async def a_story(stage: Stage) -> str:
    """A transaction that is over."""
    held = await stage.held()
    (await held.redeem()).ok()
    assert (await stage.mark("revoke", f"txn:{held.txn}")).status == 200
    await stage.broker.store.reap(stage.broker.clock.now())
    return held.txn


async def test_salt_and_documents_go_and_the_tree_stays(world: Stage) -> None:
    txn = await a_story(world)
    ledger = world.broker.ledger
    salt = ledger.salt(txn)
    opened = next(each for each in ledger.of_txn(txn) if each.kind == "step.opened")
    assert salt is not None
    assert opened.facts is not None
    digest = str(opened.facts["decision"])
    (raw,) = ledger._source._conn.execute("SELECT doc FROM decisions WHERE digest = ?", (digest,)).fetchone()
    assert hashlib.sha256(salt + raw).hexdigest() == digest, "whoever has the salt can check a guess"
    before = [each.facts for each in ledger.of_txn(txn)]

    done = (await erase(world, txn)).ok()
    assert done["documents"] > 0
    assert ledger.salt(txn) is None
    assert ledger.decision(digest) is None
    assert [each.facts for each in ledger.of_txn(txn)][: len(before)] == before
    (entry,) = world.on_record(done["ref"])
    assert entry.facts is not None
    assert (entry.kind, entry.facts["erased"], entry.facts["reason"]) == ("txn.erased", txn, "request 4711")
    await world.broker.backing.sign()
    assert verify_database(world.settings().store_path, world.broker.backing.vkey).ok


async def test_what_was_erased_is_not_in_the_database_file_any_more(world: Stage) -> None:
    txn = await a_story(world)
    kept, salt = await a_story(world), world.broker.ledger.salt(txn)
    assert salt is not None
    (await erase(world, txn)).ok()
    await world.stop()  # the write-ahead log is folded in
    raw = world.settings().store_path.read_bytes()
    assert salt not in raw
    await world.start()
    other = world.broker.ledger.salt(kept)
    assert other is not None
    assert other in raw, "that of another transaction is"


async def test_explain_says_so(world: Stage) -> None:
    txn = await a_story(world)
    told = (await world.admin("GET", f"/v1/admin/explain/{txn}")).ok()
    assert told["erased"] is None
    done = (await erase(world, txn)).ok()
    told = (await world.admin("GET", f"/v1/admin/explain/{txn}")).ok()
    assert (told["erased"]["reason"], told["erased"]["ref"]) == ("request 4711", done["ref"])
    assert set(told["decisions"].values()) == {None}
    first = story_view(told).renderables[0]  # type: ignore[union-attr]
    assert "nobody can show any more" in str(first)


async def test_a_living_transaction_is_not_erased(world: Stage) -> None:
    held = await world.held()
    reply = await erase(world, held.txn)
    assert reply.code == "wrong_state"
    assert world.broker.ledger.salt(held.txn) is not None
    (await held.redeem()).ok()
    assert (await world.mark("revoke", f"txn:{held.txn}")).status == 200
    await world.broker.store.reap(world.broker.clock.now())
    (await erase(world, held.txn)).ok()


async def test_what_is_unknown_or_erased_already_is_not_found(world: Stage) -> None:
    txn = await a_story(world)
    (await erase(world, txn)).ok()
    for name in (txn, "txn_1" + "0" * 28, "0000000000", "nonsense"):
        assert (await erase(world, name)).code == "not_found"


async def test_what_has_nothing_beside_the_ledger_and_what_has_no_reason_is_refused(world: Stage) -> None:
    txn = await a_story(world)
    mark = (await world.mark("freeze", "tool:ledger/wipe")).ok()
    assert (await erase(world, mark["ref"])).code == "not_found"
    blank = {"name": txn, "reason": "  "}
    assert (await world.admin("POST", "/v1/admin/ledger/erase", blank)).code == "invalid_request"
    (await erase(world, txn)).ok()


async def test_auditors_and_other_tenants_operators_erase_nothing(world: Stage) -> None:
    txn = await a_story(world)
    body = json.dumps({"name": txn, "reason": "mine"}).encode()
    path = "/v1/admin/ledger/erase"
    for who, code in (("auditor/all", "wrong_workload"), ("operator/blue", "not_found")):
        actor = await world.actor(who)
        headers = {"Content-Type": "application/json", "DPoP": actor.proof(path), "Idempotency-Key": new()}
        assert (await actor.send("POST", path, body, headers)).code == code
    assert world.broker.ledger.salt(txn) is not None
    actor = await world.actor("operator/ops")
    headers = {"Content-Type": "application/json", "DPoP": actor.proof(path), "Idempotency-Key": new()}
    (await actor.send("POST", path, body, headers)).ok()
