"""Somebody writes to the swift engine who is no broker; once for every pair of engines.

Each attack stands after the same step on what was not touched. A test module names a fixture `pair`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.fleet.order_suite import _held, code
from tests.fleet.pair import Pair

from stepwrit_broker.core.grant import Grant
from stepwrit_broker.store.fleet.codec import encode
from stepwrit_broker.store.fleet.seams import Change, Said, Work
from stepwrit_broker.store.fleet.tables import shard_of_name

Edit = Callable[[list[Any]], None]
STATE, EXPIRES, BODY = 3, 5, 8


def unspent(row: list[Any]) -> None:
    row[STATE], row[6], row[7] = "issued", "", 0.0


def longer(row: list[Any]) -> None:
    row[EXPIRES] += 3600.0


def other_request(row: list[Any]) -> None:
    body = msgspec.json.decode(row[BODY])
    body[6] = "0" * len(body[6])
    row[BODY] = msgspec.json.encode(body).decode()


def other_audience(row: list[Any]) -> None:
    body = msgspec.json.decode(row[BODY])
    body[3] = "https://thief.example/"
    row[BODY] = msgspec.json.encode(body).decode()


async def edit(pair: Pair, grant: Grant, how: Edit) -> None:
    raw = await pair.raw(grant.txn)
    name = f"grants:{grant.id}"
    prefix, value = (b"", raw[name]) if raw[name][:1] >= b"\x90" else (raw[name][:8], raw[name][8:])
    row = msgspec.msgpack.decode(value)
    assert row[0] == grant.id
    how(row)
    fresh = prefix + msgspec.msgpack.encode(row)
    assert fresh != raw[name]
    await pair.put_raw(grant.txn, raw | {name: fresh})


async def alone(pair: Pair) -> Grant:
    """A credential of the first broker; the second has never seen its transaction."""
    both, pair.stores = pair.stores, [pair.one, pair.one]
    try:
        return await _held(pair)
    finally:
        pair.stores = both


class ForgingSuite:
    """`one` works, somebody writes, `two` is asked."""

    @pytest.mark.parametrize("how", [longer, other_request, other_audience], ids=lambda how: how.__name__)
    async def test_a_row_that_was_changed_is_decided_on_by_nobody(self, pair: Pair, how: Edit) -> None:
        good, bad = await alone(pair), await alone(pair)
        await pair.put_raw(good.txn, await pair.raw(good.txn))
        assert (await pair.two.redeem(pair.make.redeem(good)))[0].state == "redeemed", "as it was: nothing"
        assert pair.two.forged == 0
        before = pair.one.epoch
        await edit(pair, bad, how)
        assert await code(pair.two.redeem(pair.make.redeem(bad))) in ("expired", "unavailable")
        assert await pair.told("grant.redeemed", bad) == 0
        assert pair.two.forged == 1
        assert (await pair.truths[0].standing()).epoch != before
        await self.goes_on(pair)

    async def goes_on(self, pair: Pair) -> None:
        pair.make.epoch = (await pair.truths[0].standing()).epoch
        grant = await _held(pair)
        assert (await pair.two.redeem(pair.make.redeem(grant)))[0].state == "redeemed"

    async def test_what_was_spent_is_not_unspent(self, pair: Pair) -> None:
        grant = await alone(pair)
        assert (await pair.one.redeem(pair.make.redeem(grant)))[0].state == "redeemed"
        await edit(pair, grant, unspent)
        assert await code(pair.two.redeem(pair.make.redeem(grant))) in ("replay", "unavailable")
        assert await pair.told("grant.redeemed", grant) == 1
        assert pair.two.forged == 1
        await self.goes_on(pair)

    async def test_an_old_row_is_no_row(self, pair: Pair) -> None:
        grant = await alone(pair)
        old = await pair.raw(grant.txn)
        await pair.one.redeem(pair.make.redeem(grant))
        raw, name = await pair.raw(grant.txn), f"grants:{grant.id}"
        assert raw[name] != old[name]
        await pair.put_raw(grant.txn, raw | {name: old[name]})
        assert await code(pair.two.redeem(pair.make.redeem(grant))) in ("replay", "unavailable")
        assert await pair.told("grant.redeemed", grant) == 1
        await self.goes_on(pair)

    async def test_an_old_version_with_its_seal_carries_nothing(self, pair: Pair) -> None:
        """All of it is what a broker wrote, once: the truth takes no second work on one version."""
        grant = await alone(pair)
        old = await pair.raw(grant.txn)
        await pair.one.redeem(pair.make.redeem(grant))
        await pair.put_raw(grant.txn, old)
        assert await code(pair.two.redeem(pair.make.redeem(grant))) in ("replay", "unavailable")
        assert await pair.told("grant.redeemed", grant) == 1
        await self.goes_on(pair)

    async def test_rows_of_another_transaction_are_not_its_own(self, pair: Pair) -> None:
        mine, other = await alone(pair), await alone(pair)
        await pair.put_raw(mine.txn, await pair.raw(other.txn))
        assert await code(pair.two.redeem(pair.make.redeem(mine))) in ("expired", "unavailable")
        assert pair.two.forged == 1
        await self.goes_on(pair)

    async def test_a_work_that_no_broker_sealed_is_not_carried(self, pair: Pair) -> None:
        grant = await alone(pair)
        before = pair.one.epoch
        shard = shard_of_name(grant.txn, pair.one.shards)
        version = int((await pair.raw(grant.txn))["v"])
        said = Said(b'{"kind":"forged"}', pair.make.now, "forged", None, None, None)
        work = Work(
            at=pair.make.now, changes=(Change(txn=grant.txn, version=version, put=()),), entries=(said,)
        )
        await pair.append(shard, encode(work))
        while (await pair.truths[0].standing()).epoch == before:
            await asyncio.sleep(0.01)
        await self.goes_on(pair)
        assert not [each for each in await pair.entries() if each["kind"] == "forged"]
        assert pair.one.forged + pair.two.forged >= 1

    @pytest.mark.parametrize("heard", [True, False])
    async def test_a_go_ahead_is_not_answered_by_another_work_under_its_number(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch, heard: bool
    ) -> None:
        """Both works are sealed, the numbers have no hole: the go-ahead's own was taken out."""
        spent, other = await alone(pair), await alone(pair)
        shard = shard_of_name(spent.txn, pair.one.shards)
        while shard_of_name(other.txn, pair.one.shards) != shard:
            other = await alone(pair)
        if not heard:
            for store in pair.stores:
                monkeypatch.setattr(store.hearing, "_heard", _deaf)
        await pair.one.redeem(pair.make.redeem(await alone(pair)))
        before = pair.one.epoch
        await pair.hold()
        mine = asyncio.ensure_future(code(pair.two.redeem(pair.make.redeem(spent))))
        await pair.ordered()
        theirs = asyncio.ensure_future(code(pair.one.redeem(pair.make.redeem(other))))
        await self.two_wait(pair, shard)
        await pair.swap(shard)
        pair.carry()
        assert await mine == "unavailable"
        assert await theirs == "unavailable"
        assert await pair.told("grant.redeemed", spent) == 0
        assert (await pair.truths[0].standing()).epoch != before
        await self.goes_on(pair)

    async def two_wait(self, pair: Pair, shard: int) -> None:
        """Until two works of the shard are in its stream."""
        while True:
            done = await pair.truths[0].positions(pair.one.epoch)
            found = await pair.swifts[0].read(pair.one.epoch, done, 0)
            if sum(each.shard == shard for each in found) == 2:
                return
            await asyncio.sleep(0.005)


async def _deaf(_: object) -> None:
    """It hears nothing; it looks."""
