"""`ledger erase` in a fleet on real engines: over the API, with a broker that was away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from tests.attacks.test_erasure import a_story, erase
from tests.rigs.engines import Engines, Fleet, fleet

from stepwrit_broker.ledger.verify import verify_log
from stepwrit_broker.ledger.where import open_source

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'stepwrit'::regnamespace AND relkind = 'r'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(Path(tmp_path_factory.mktemp("fleet"))) as made:
        yield made


async def in_redis(engines: Engines, secret: bytes) -> set[str]:
    """Keys that hold it, rows and streams alike."""
    found = set[str]()
    async with engines.redis.client() as client:
        async for key in client.scan_iter(count=1000):
            kind = await client.type(key)
            held: object = b""
            if kind == b"hash":
                held = b"".join((await client.hgetall(key)).values())
            elif kind == b"stream":
                held = b"".join(entry[b"w"] for _, entry in await client.xrange(key))
            if secret in held:  # type: ignore[operator]
                found.add(key.decode())
    return found


async def in_postgres(engines: Engines, secret: bytes) -> set[str]:
    """Tables that hold it."""
    conn = await asyncpg.connect(engines.postgres.dsn)
    try:
        tables = [row[0] for row in await conn.fetch(_TABLES)]
        asked = 'SELECT EXISTS (SELECT FROM stepwrit."{}" AS t WHERE t::text LIKE $1)'
        return {name for name in tables if await conn.fetchval(asked.format(name), f"%{secret.hex()}%")}
    finally:
        await conn.close()


async def proof(two: Fleet, seq: int) -> dict[str, object]:
    return (await two.stage.admin("GET", f"/v1/admin/ledger/proof/{seq}")).ok()


async def test_nothing_of_it_is_left_in_either_engine_or_any_broker(two: Fleet) -> None:
    await two.to(two.one)
    txn, kept = await a_story(two.stage), await a_story(two.stage)
    salt, other = (two.one.ledger.salt(name) for name in (txn, kept))
    assert salt is not None
    assert other is not None
    assert await two.two.store.knows(txn)
    assert len(await in_redis(two.engines, salt)) >= 1, "its rows, at least"
    assert await in_postgres(two.engines, salt) == {"rows", "ledger_salts"}
    seqs = [each.seq for each in two.one.ledger.of_txn(txn)]
    await two.one.backing.sign()
    before = await proof(two, seqs[0])

    done = (await erase(two.stage, txn)).ok()
    assert done["documents"] > 0
    assert await in_postgres(two.engines, salt) == set()
    while await in_redis(two.engines, salt):  # streams are trimmed once a second
        await asyncio.sleep(0.1)
    for broker in (two.one, two.two):
        assert broker.ledger.salt(txn) is None
        salts = broker.store._state.conn.execute  # type: ignore[attr-defined]
        while salts("SELECT 1 FROM salts WHERE txn = ?", (txn,)).fetchone():
            await asyncio.sleep(0.01)
    assert await in_redis(two.engines, other), "that of another transaction is there"
    assert await in_postgres(two.engines, other) == {"rows", "ledger_salts"}

    (entry,) = two.stage.on_record(done["ref"])
    assert entry.kind == "txn.erased"
    await two.one.backing.sign()
    assert (await proof(two, seqs[0]))["leaf"] == before["leaf"]
    assert (await proof(two, entry.seq))["leaf"]
    report = await asyncio.to_thread(
        verify_log, lambda: open_source(two.engines.postgres.dsn), "it", two.one.backing.vkey
    )
    assert report.ok


async def test_a_broker_that_was_down_meanwhile_comes_back_without_it(two: Fleet) -> None:
    await two.to(two.one)
    three = await two.start("three")
    txn = await a_story(two.stage)
    assert await three.store.knows(txn)
    salt = two.one.ledger.salt(txn)
    assert salt is not None
    await three.__aexit__(None, None, None)
    (await erase(two.stage, txn)).ok()
    three = await two.start("three")
    assert three.ledger.salt(txn) is None
    assert await three.store.knows(txn)
    await three.store.reap(three.clock.now())
    assert await in_postgres(two.engines, salt) == set()
    while await in_redis(two.engines, salt):
        await asyncio.sleep(0.1)
    with two.at(three):
        assert (await erase(two.stage, txn)).code == "not_found"
    await three.__aexit__(None, None, None)


async def test_with_redis_away_nothing_is_erased_and_afterwards_it_is(two: Fleet) -> None:
    await two.to(two.two)
    txn = await a_story(two.stage)
    two.engines.redis.kill()
    assert (await erase(two.stage, txn)).code == "unavailable"
    assert two.two.ledger.salt(txn) is not None
    await two.engines.redis.start()
    reply = await erase(two.stage, txn)
    while reply.status != 200:
        assert reply.code == "unavailable"
        await asyncio.sleep(0.2)
        reply = await erase(two.stage, txn)
    assert two.one.ledger.salt(txn) is None
