"""What is wider than a transaction: proofs used once, places, cells of limits. Each lies in one shard."""

from __future__ import annotations

from stepwrit_broker.core.slices import Ask, Taken
from stepwrit_broker.store.fleet.redis import scripts
from stepwrit_broker.store.fleet.redis.running import Runner
from stepwrit_broker.store.fleet.seams import Claim, Once


class Wide:
    """Claims and leases."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._keys = runner, runner.keys

    async def claim(self, epoch: str, claim: Claim, now: float) -> str | None:
        """As `Swift.claim`, of one."""
        shard, keys, words = self._where(epoch, claim)
        if isinstance(claim, Once):
            held = await self._runner.run(
                scripts.ONCE, shard, epoch, keys, repr(now), *words, repr(claim.until)
            )
            return str(held[0].decode())
        most = (claim.most, repr(claim.until))
        held = await self._runner.run(scripts.PLACE, shard, epoch, keys, repr(now), *words, *most)
        return claim.member if held[0] else None

    async def release(self, epoch: str, claim: Claim) -> None:
        """As `Swift.release`, of one."""
        shard, keys, words = self._where(epoch, claim)
        kind = "once" if isinstance(claim, Once) else "place"
        await self._runner.run(scripts.RELEASE, shard, epoch, keys, kind, *words)

    def _where(self, epoch: str, claim: Claim) -> tuple[int, list[str], tuple[bytes, bytes]]:
        """Shard, keys, and the words that name it."""
        if isinstance(claim, Once):
            shard = self._keys.wide(claim.key)
            keys = [self._keys.of(shard, epoch, what) for what in ("o", "ox")]
            return shard, keys, (claim.key, claim.value.encode())
        key = claim.key.encode()
        shard = self._keys.wide(key)
        keys = [self._keys.of(shard, epoch, what) for what in ("p", "px")]
        return shard, keys, (key, b"%08x%b%b" % (len(key), key, claim.member.encode()))

    async def lease(self, epoch: str, key: str, ask: Ask) -> Taken:
        """As `Swift.lease`."""
        shard, where = self._bucket(epoch, key)
        words = (
            repr(ask.now),
            key,
            repr(ask.interval),
            ask.burst,
            ask.wanted,
            repr(ask.life),
            repr(ask.since),
        )
        cells, tat, early = await self._runner.run(scripts.LEASE, shard, epoch, where, *words)
        return Taken(cells=cells, tat=float(tat), retry_after=float(early))

    async def give_back(self, epoch: str, key: str, known: float, cells: int, interval: float) -> None:
        """As `Swift.give_back`."""
        shard, where = self._bucket(epoch, key)
        words = (key, repr(known), cells, repr(interval))
        await self._runner.run(scripts.GIVE_BACK, shard, epoch, where, *words)

    def _bucket(self, epoch: str, key: str) -> tuple[int, list[str]]:
        shard = self._keys.wide(key.encode())
        return shard, [self._keys.of(shard, epoch, "l")]
