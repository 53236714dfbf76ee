"""Works as real cycles make them, caught in the streams of a running fleet, and as many more like them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

import asyncpg
from tests.bench.cycle import VERBS, Cycle
from tests.bench.fleet_rig import SHARDS, Site
from tests.bench.measure import Load

from stepwrit_broker.core.ids import RANDOM_BYTES, make_id
from stepwrit_broker.store.fleet.codec import decode
from stepwrit_broker.store.fleet.redis.engine import RedisSwift
from stepwrit_broker.store.fleet.sealed import TAG_BYTES
from stepwrit_broker.store.fleet.seams import Change, Row, Work


@dataclass(frozen=True, slots=True)
class Template:
    """An intent and one step's five works, in order."""

    root: Work
    cycle: tuple[Work, ...]

    @property
    def txn(self) -> str:
        return self.root.changes[-1].txn


async def caught(where: Site) -> Template:
    """What an intent and two cycles put into the streams; the second cycle is the one that is kept."""
    swift = RedisSwift.of(where.redis.url, fleet="stepwrit", shards=SHARDS)
    try:
        async with Load(where.domain, where.members[0], 1) as load:
            epoch, at = await _standing(where)
            catching = asyncio.create_task(_catch(swift, epoch, at, 1 + 2 * len(VERBS)))
            await load.intents(1)
            for _ in range(2):
                cycle = Cycle(load.lanes[0])
                for verb in VERBS:
                    await load.caller.call(verb, cycle)
            works = await catching
    finally:
        await swift.close()
    return Template(works[0], tuple(works[-len(VERBS) :]))


async def _standing(where: Site) -> tuple[str, dict[int, int]]:
    conn = await asyncpg.connect(where.postgres.dsn)
    try:
        epoch = await conn.fetchval("SELECT epoch FROM stepwrit.fleet")
        rows = await conn.fetch("SELECT shard, seq FROM stepwrit.shards WHERE epoch = $1", epoch)
    finally:
        await conn.close()
    return epoch, {row["shard"]: row["seq"] for row in rows}


async def _catch(swift: RedisSwift, epoch: str, at: dict[int, int], count: int) -> list[Work]:
    """They are of one shard, so they come in order."""
    works: list[Work] = []
    while len(works) < count:
        for each in await swift.read(epoch, at, 0.2):
            at[each.shard] = each.seq
            works.append(decode(each.work[TAG_BYTES:]))
    return works


class Copies:
    """Works like the template's under names of their own. What rows and entries hold keeps its size."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.intent = _names(template.root)
        self.step = {
            name: None for work in template.cycle for name in _names(work) if name not in self.intent
        }

    def lane(self) -> Lane:
        """A new transaction, in any shard."""
        return Lane(self, int.from_bytes(os.urandom(2), "big") % SHARDS)


class Lane:
    """One transaction, whose works are made in the order in which they are to be committed."""

    def __init__(self, copies: Copies, shard: int) -> None:
        self._copies, self.shard = copies, shard
        self._names = self._fresh(copies.intent)
        self.txn = self._names[copies.template.txn]
        self.version = 0

    def root(self) -> Work:
        """The intent's."""
        return self._made(self._copies.template.root, self._names)

    def step(self) -> dict[str, str]:
        """A new step's names, for `work`."""
        return self._fresh(self._copies.step)

    def work(self, step: dict[str, str], verb: int) -> Work:
        """What this of the five calls makes of a step."""
        return self._made(self._copies.template.cycle[verb], {**self._names, **step})

    def _fresh(self, names: Iterable[str]) -> dict[str, str]:
        shard = f"{self.shard:02x}"
        return {name: make_id(name[:3], shard, os.urandom(RANDOM_BYTES)) for name in names}  # type: ignore[arg-type]

    def _made(self, work: Work, names: dict[str, str]) -> Work:
        changes = tuple(self._change(each, names) for each in work.changes)
        self.version += 1
        return replace(
            work,
            changes=changes,
            entries=tuple(each._replace(txn=self.txn, ref=os.urandom(5).hex()) for each in work.entries),
            salts=tuple((self.txn, os.urandom(len(salt))) for _, salt in work.salts),
            kept=tuple(each._replace(digest=os.urandom(32).hex(), name=self.txn) for each in work.kept),
            proofs=tuple(each._replace(key=os.urandom(16)) for each in work.proofs),
            ops=tuple(each._replace(key=os.urandom(16)) for each in work.ops),
            uses=tuple(names[each] for each in work.uses),
        )

    def _change(self, change: Change, names: dict[str, str]) -> Change:
        put = tuple(Row(_field(row.field, names), row.ord, row.value) for row in change.put)
        drop = tuple(_field(each, names) for each in change.drop)
        return Change(txn=self.txn, version=self.version, put=put, drop=drop)


def _field(field: str, names: dict[str, str]) -> str:
    table, _, key = field.partition(":")
    return f"{table}:{os.urandom(16).hex().upper()}" if table == "ops" else f"{table}:{names[key]}"


def _names(work: Work) -> dict[str, None]:
    """The ids that its rows are under, in order."""
    fields = [row.field for change in work.changes for row in change.put]
    return dict.fromkeys(key for table, _, key in (each.partition(":") for each in fields) if table != "ops")
