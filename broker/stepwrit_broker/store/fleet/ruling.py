"""Marks, versions and what is said outside any operation: committed to the truth, then put in force.

They need no swift engine. Where it cannot be reached the epoch ends, in the truth: no go-ahead that was
decided without the new rule can be committed any more. So it does where the truth does not get in time what
was ordered before the rule: nobody is answered by it after the operator was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final, TypeVar

from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.versions import StoredVersion
from stepwrit_broker.ports import Happening, MarkCommand, VersionCommand
from stepwrit_broker.store import ruling
from stepwrit_broker.store.common import op_key
from stepwrit_broker.store.fleet.carrying import Carrier
from stepwrit_broker.store.fleet.durable import Durable
from stepwrit_broker.store.fleet.epochs import Epochs
from stepwrit_broker.store.fleet.scratch import Plan, Scratch
from stepwrit_broker.store.fleet.seams import EpochOver, OpDone, RuleChange, Swift, Told, Truth, Used
from stepwrit_broker.store.fleet.state import owing
from stepwrit_broker.store.fleet.tables import encoded
from stepwrit_broker.store.rows import decode_mark
from stepwrit_broker.store.state import EPOCH_BYTES

T = TypeVar("T")
OWED_MAX: Final = 4096
TRIES: Final = 6
ORDERED_S: Final = 3.0
"""How long what was ordered before a rule may take to the truth: longer than another broker needs to carry on
for one that was killed.
"""
LOOK_S: Final = 0.1
RULES: Final = "rules"  # no aggregate: what a rule touches of one is not kept


class Ruling:
    """The operator's words, for every broker."""

    def __init__(
        self,
        scratch: Scratch,
        swift: Swift,
        truth: Truth,
        epochs: Epochs,
        durable: Durable,
        carrier: Carrier,
    ) -> None:
        self._scratch, self._swift, self._truth = scratch, swift, truth
        self._epochs, self._durable, self._carrier = epochs, durable, carrier
        self.ordered_s = ORDERED_S
        self._lock = asyncio.Lock()

    async def mark(self, command: MarkCommand) -> Mark:
        """Durable, and in force on every broker, before it returns.

        When the truth cannot be reached a mark to set is in force on this broker, is owed, and the caller
        gets Unavailable(rule="store") that says so.
        """
        state, target = self._scratch.state, command.mark.target
        owed, before = state.owed, state.marks.get(target)
        if not command.lift:
            if len(owed) >= OWED_MAX and target not in owed:
                raise Unavailable("unavailable", "too many marks wait to become durable", rule="store")
            owed[target] = command
            state.marks[target] = owing(before, command)  # here at once, everywhere once durable
        try:
            stands = await self._mark(command)
        except Unavailable as doubt:
            if command.lift or doubt.rule != "store":
                self._refused(command, before)
                raise
            raise Unavailable(
                "unavailable",
                "in force on this broker only; not durable",
                rule="store",
                retry_after=1.0,
                who_can_change_it="the operator",
            ) from doubt
        except Problem:
            self._refused(command, before)
            raise
        self._paid(command)
        return stands

    async def apply(self, command: VersionCommand) -> StoredVersion:
        """The next version with its marks, in force on every broker when it returns."""
        targets = (*command.lifts, *(each.target for each in command.marks))
        return await self._ruled(lambda: ruling.apply(self._scratch.state, command), targets)

    async def record(self, happening: Happening) -> None:
        """One entry outside any operation."""
        names = () if happening.txn is None else (happening.txn,)
        plan = await self._carrier.read(names, lambda: self._recorded(happening))
        await self._truth.say(plan.said, plan.kept, plan.salts)

    def _recorded(self, happening: Happening) -> Plan[None]:
        plan = self._scratch.plan(RULES, lambda: ruling.record(self._scratch.state, happening))
        self._scratch.forget(RULES)
        return plan

    async def _mark(self, command: MarkCommand) -> Mark:
        done = await self._truth.operation(op_key(command.op))
        await self._look(command.mark.target)
        with self._remembered(done):
            stands = await self._ruled(
                lambda: ruling.mark(self._scratch.state, command), (command.mark.target,)
            )
        with contextlib.suppress(Unavailable):  # another broker may have been told at once, and was first
            done = await self._truth.operation(op_key(command.op)) or done
        return stands if done is None else decode_mark(done.answer)

    async def _look(self, target: str) -> None:
        """So that the entry can stand in the story of what is marked. It waits for nothing that is under way
        there: a brake that did would hang with whoever carries it.
        """
        kind, _, name = target.partition(":")
        txn = None
        if kind == "txn" and await self._truth.transaction(name) is not None:
            txn = name
        if kind in ("step", "grant"):
            txn = await self._truth.whose(f"{kind}s:{name}")
        if txn is not None:
            await self._carrier.look(txn, wait=False)

    @contextlib.contextmanager
    def _remembered(self, done: OpDone | None) -> Generator[None]:
        """Let the verb see that this operation was answered."""
        copy = self._scratch.state.copy
        if done is not None:
            copy.put(f"ops:{done.key.hex()}", encoded(tuple(done)))
            copy.touched()
        try:
            yield
        finally:
            if done is not None:
                copy.drop(f"ops:{done.key.hex()}")
                copy.touched()

    async def _ruled(self, run: Callable[[], T], targets: Sequence[str]) -> T:
        """targets: of the marks that it may touch. Also what was said before is in force when this returns:
        that it was may be what failed.
        """
        async with self._lock:
            await self._epochs.reload()
            self._scratch.state.show(targets)
            plan = self._scratch.plan(RULES, run)
            self._scratch.forget(RULES)
            self._scratch.state.readopt()
            if plan.marks or plan.lifted or plan.version or plan.said:
                await self._truth.rule(self._change(plan))
                await self._epochs.reload()
            number = self._scratch.state.rules
        await self._in_force(number)
        return plan.answer

    def _change(self, plan: Plan[T]) -> RuleChange:
        version = plan.version
        return RuleChange(
            put=plan.marks,
            lift=plan.lifted,
            version=version,
            expected=None if version is None else version.number - 1,
            op=plan.op,
            proofs=tuple(Used(key, each.until) for key, each in plan.wanted.proofs.items()),
            said=plan.said,
            kept=plan.kept,
        )

    async def _in_force(self, number: int) -> None:
        """When this returns no broker commits anything that was decided before: every shard refuses it and
        what they had taken is in the truth, or the epoch has ended.
        """
        for _ in range(TRIES):
            epoch = self._epochs.epoch
            try:
                try:
                    ordered = await self._swift.rule(epoch, number)
                    await self._tell(number)
                    if await self._is_carried(epoch, ordered):
                        return
                except EpochOver:
                    await self._epochs.renew(epoch)
                    continue
            except Unavailable:
                pass
            break
        await self._end(self._epochs.epoch)

    async def settled(self, number: int) -> bool:
        """Whether all that was decided before these rules is in the truth, or never will be."""
        epoch = self._epochs.epoch
        try:
            return await self._is_carried(epoch, await self._swift.rule(epoch, number))
        except (EpochOver, Unavailable):
            return False

    async def _tell(self, number: int) -> None:
        with contextlib.suppress(Unavailable):  # who does not hear it looks
            await self._swift.tell(Told("rules", str(number).encode()))

    async def _is_carried(self, epoch: str, upto: Mapping[int, int]) -> bool:
        """Whether the truth has it in time; asked as well as heard of. Raises EpochOver, Unavailable."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.ordered_s
        while not await self._durable.reached(epoch, upto, min(LOOK_S, until - loop.time())):
            if loop.time() >= until:
                return False
            self._durable.advance(epoch, await self._truth.positions(epoch))
        return True

    async def _end(self, epoch: str) -> None:
        """No epoch stands that began before this. Raises Unavailable."""
        for _ in range(TRIES):
            fresh = self._scratch.state.entropy.bytes(EPOCH_BYTES).hex()
            standing = await self._truth.next_epoch(epoch, fresh)
            if standing.epoch == fresh:
                self._epochs.ended["rule"] += 1
                return
            epoch = standing.epoch  # who began it may not have known of the rule
        raise Unavailable("unavailable", "the fleet's epoch changes again and again", rule="epoch")

    def _paid(self, command: MarkCommand) -> None:
        owed = self._scratch.state.owed
        if owed.get(command.mark.target) is command:
            del owed[command.mark.target]

    def _refused(self, command: MarkCommand, before: Mark | None) -> None:
        """A refused mark leaves nothing."""
        state, target = self._scratch.state, command.mark.target
        self._paid(command)
        if state.marks.get(target) is command.mark:
            if before is None:
                del state.marks[target]
            else:
                state.marks[target] = before

    def owed(self) -> Sequence[MarkCommand]:
        """Marks that are not durable yet."""
        return list(self._scratch.state.owed.values())
