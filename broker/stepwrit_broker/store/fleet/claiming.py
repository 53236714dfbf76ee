"""What is wider than a transaction, claimed where all brokers claim it, before anything is committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from stepwrit_broker.core.errors import Refused, Unavailable
from stepwrit_broker.store.common import name_of
from stepwrit_broker.store.fleet.scratch import Plan
from stepwrit_broker.store.fleet.seams import Claim, EpochOver, Once, OpDone, Standing, Swift, Truth
from stepwrit_broker.store.fleet.state import FleetState, Proof

if TYPE_CHECKING:
    from stepwrit_broker.store.fleet.carrying import Shares

YOUNG_S: Final = 900.0  # within this an epoch may meet proofs that one before it has used
MARGIN_S: Final = 60.0  # a proof is remembered for longer than it is good: brokers' clocks differ
LONG_S: Final = 300.0  # a proof that lives longer is always looked up
SHORT: Final = frozenset({"dpop", "step"})  # all others may have lived for long, and be about to end


class Claims:
    """The claims of one operation, through all its tries."""

    def __init__(
        self,
        swift: Swift,
        truth: Truth,
        shares: Shares,
        state: FleetState,
        of: str,
        taken: Sequence[Claim] = (),
    ) -> None:
        self._swift, self._truth, self._shares, self._state = swift, truth, shares, state
        self._of = of  # the aggregate that remembers the operation; none for a root's
        self._taken = list(taken)
        self.sent = False  # whether a commit may have landed: then nothing is given back
        self._charged, self._charged_in = 0, ""
        self._kinds: dict[bytes, str] = {}
        self._mine = state.entropy.bytes(8).hex()  # this broker's try, through all its rounds
        self._op = self._mine
        self._noted: dict[bytes, Proof] = {}

    def note(self) -> None:
        """The verb refused, just now: what it had been shown before that. Not for later: others run too."""
        self._noted = dict(self._state.wanted.proofs)

    async def take(self, epoch: str, plan: Plan[Any], standing: Standing) -> None:
        """Take all, or raise Refused(`replay` | `limit`); then `refused` gives back what was taken."""
        self._noted = {}
        self._op = self._mine if plan.op is None else _try_of(plan.op, self._of)
        proofs = self._shown(plan.wanted.proofs)
        if proofs or plan.wanted.places:
            await self._claim(epoch, [*proofs, *plan.wanted.places], plan.now)
        await self._check_used(proofs, plan.now, standing)
        if epoch != self._charged_in:  # what an epoch gave is good in that one alone
            self._charged, self._charged_in = 0, epoch
        for what in plan.wanted.charges[self._charged :]:
            await self._shares.charge(self._state.limits(), what, plan.now)
            self._charged += 1  # a try that is made again is not charged again

    async def refused(self, epoch: str) -> None:
        """The operation was refused: it has used nothing up.

        Raises Refused(`replay`) where what it showed before that was used already: that is what happened.
        """
        try:
            if self._noted:
                await self._claim(epoch, self._shown(self._noted), self._state.high)
        finally:
            if self._taken:
                taken, self._taken = self._taken, []
                await self.give_back(self._swift, epoch, taken)

    @staticmethod
    async def give_back(swift: Swift, epoch: str, claims: Sequence[Claim]) -> None:
        """For speed alone: what is not given back runs out."""
        try:
            await swift.release(epoch, claims)
        except (EpochOver, Unavailable):
            return

    def _shown(self, proofs: Mapping[bytes, Proof]) -> list[Claim]:
        """The operation's name comes first, then whose try it is."""
        self._kinds = {key: each.kind for key, each in proofs.items()}
        value = f"{self._op}.{self._mine}"
        return [Once(key, value, each.until + MARGIN_S) for key, each in proofs.items()]

    async def _claim(self, epoch: str, claims: list[Claim], now: float) -> None:
        """Another try of this very operation may have claimed first, and may have used it up: it is not ours
        to give back.
        """
        stands = await self._swift.claim(epoch, claims, now)
        fits = [self._fits(claim, value) for claim, value in zip(claims, stands, strict=True)]
        self._taken += [claim for claim, value in zip(claims, stands, strict=True) if value == _of(claim)]
        for claim, fit in zip(claims, fits, strict=True):
            if not fit:
                raise self._refused(claim)

    def _fits(self, claim: Claim, stands: str | None) -> bool:
        if isinstance(claim, Once) and stands is not None:
            return stands.partition(".")[0] == self._op
        return stands == _of(claim)

    def _refused(self, claim: Claim) -> Refused:
        if isinstance(claim, Once):
            return self._replay(claim.key)
        in_force = self._state.limits()
        name = claim.key.partition("\x1f")[0]
        per = next((each.per for each in in_force.concurrency if each.name == name), ())
        return Refused(
            "limit",
            f"{claim.most} outstanding credentials per {'+'.join(per) or 'broker'}",
            rule=f"limits v{in_force.version} {name}",
            retry_after=1.0,
            who_can_change_it=in_force.owner,
        )

    async def _check_used(self, proofs: Sequence[Claim], now: float, standing: Standing) -> None:
        """Those that an epoch before this one may have used up: the truth knows."""
        is_young = now < standing.began_at + YOUNG_S
        long_s = LONG_S + MARGIN_S
        shown = [each for each in proofs if isinstance(each, Once)]
        doubtful = [
            each.key
            for each in shown
            if is_young or each.until - now > long_s or self._kinds.get(each.key) not in SHORT
        ]
        if doubtful and await self._truth.used(doubtful):
            raise self._replay(doubtful[0])

    def _replay(self, key: bytes) -> Refused:
        kind = self._kinds.get(key, "key")
        return Refused("replay", f"this {kind} proof was used before", rule=f"proof {kind}")


def _try_of(op: OpDone, of: str) -> str:
    """What a repeat has in common with the first try: the operation, what it asks for, and of what. Callers
    choose an operation's id, so that alone would let one proof be used for several things.
    """
    return name_of(op.key.hex(), op.digest, of).hex()


def _of(claim: Claim) -> str:
    return claim.value if isinstance(claim, Once) else claim.member
