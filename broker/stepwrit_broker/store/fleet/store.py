"""The `Store` port for a fleet of brokers; see `seams` for how an operation goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

from stepwrit_broker.core.errors import Conflict, Problem, Refused, Unavailable
from stepwrit_broker.core.grant import Grant, GrantRecord
from stepwrit_broker.core.influence import Past
from stepwrit_broker.core.limits import Asked, Limits
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.core.versions import StoredVersion, VersionKind
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.ports import (
    AcceptCommand,
    AttendCommand,
    Entropy,
    Happening,
    KeyPin,
    MarkCommand,
    MoveCommand,
    Moved,
    OpenCommand,
    Reaped,
    RedeemCommand,
    ReserveCommand,
    ResumeCommand,
    VersionCommand,
)
from stepwrit_broker.ports_ended import Ended, Tell
from stepwrit_broker.ports_ledger import EraseCommand, Erased
from stepwrit_broker.store import accepting, attending, deferring, granting, moving, opening
from stepwrit_broker.store.approvals import asker_of
from stepwrit_broker.store.common import answered, check_kept, name_of, op_key
from stepwrit_broker.store.disk import Headroom
from stepwrit_broker.store.fleet.carrying import Carrier, Job, Shares
from stepwrit_broker.store.fleet.clocks import ClockWatch
from stepwrit_broker.store.fleet.durable import Durable
from stepwrit_broker.store.fleet.epochs import Epochs
from stepwrit_broker.store.fleet.erasing import Erasing
from stepwrit_broker.store.fleet.hearing import Hearing
from stepwrit_broker.store.fleet.people import FleetApprovals
from stepwrit_broker.store.fleet.ruling import Ruling
from stepwrit_broker.store.fleet.scratch import Plan, Scratch
from stepwrit_broker.store.fleet.sealed import Seal
from stepwrit_broker.store.fleet.seams import EpochOver, Once, Swift, Truth, Used
from stepwrit_broker.store.fleet.sequencer import Sequencer
from stepwrit_broker.store.fleet.state import FleetState
from stepwrit_broker.store.fleet.sweeping import Sweeping
from stepwrit_broker.store.past import NO_PAST, find_past
from stepwrit_broker.store.reading import find_grant, find_step, find_txn

T = TypeVar("T")
WHOSE_HELD: Final = 65_536
SHED_RECORDS_AT: Final = 512
WAITING_MAX: Final = 8192
EPOCH_TRIES: Final = 4
RELOAD_EVERY: Final = 60  # sweeps
CLAIM_S: Final = 15.0  # an operation is under way for less: longer than anybody waits for what is durable
SECRET_BYTES: Final = 32
_SEALED: Final = "SELECT sealed FROM sealed_args WHERE step = ?"


async def _nothing() -> None:
    pass


class FleetStore:
    """Every promise is the port's. me: this broker's name among the others. `start` comes first; `runs` are
    its workers, without which nothing becomes durable.
    """

    def __init__(
        self,
        swift: Swift,
        truth: Truth,
        shares: Shares,
        entropy: Entropy,
        *,
        me: str,
        now: Callable[[], float],
    ) -> None:
        self._swift, self._truth, self._shares = swift, truth, shares
        self._state = FleetState(entropy)
        self._scratch = Scratch(self._state)
        self.durable: Final = Durable()
        self.clock: Final = ClockWatch(truth)
        self.epochs: Final = Epochs(self._scratch, swift, truth, self.durable, shares)
        self._carrier = Carrier(self._scratch, swift, truth, self.epochs, self.durable, shares)
        self._carrier.done = self._done
        self._ruling = Ruling(self._scratch, swift, truth, self.epochs, self.durable, self._carrier)
        self._sweeping = Sweeping(self._scratch, truth, self._carrier, self._ruling.settled)
        self._erasing = Erasing(self._scratch, swift, truth, self._carrier, self._claimed)
        self.process: Final = f"{me} {entropy.bytes(4).hex()}"  # also where two brokers were given one name
        self.sequencer: Final = Sequencer(self.process, swift, truth, self.epochs, self.durable, now=now)
        self.hearing: Final = Hearing(
            self.process,
            swift,
            truth,
            self.epochs,
            self.durable,
            ended=self.told,
            erased=self._erasing.heed,
            rules=lambda: self._state.rules,
        )
        self._whose: OrderedDict[str, str] = OrderedDict()
        self._tell: Tell = lambda _: None
        self._marked: Callable[[], None] = lambda: None
        self._guard: Callable[[str], None] = lambda _: None
        self._catch_up: Callable[[], Awaitable[None]] = _nothing
        self._saying = self._reaps = 0
        self._walking: Final = asyncio.Lock()
        self.approvals: Final = FleetApprovals(self._scratch, truth, self._carrier)

    async def start(self) -> None:
        """Join the fleet's epoch, or begin one; with every mark and version in place."""
        secret = await self._truth.secret(self._state.entropy.bytes(SECRET_BYTES))
        self.sequencer.seal = self.hearing.seal = self._scratch.seal = Seal(secret)
        await self.epochs.start()
        self._erasing.known = self.epochs.standing.erased

    def runs(self) -> list[Callable[[], Awaitable[None]]]:
        """Its workers; each runs until cancelled."""
        return [self.sequencer.run, *self.hearing.runs(), self.clock.run]

    def set_patience(self, ordered_s: float) -> None:
        """How long a rule waits for what was ordered before it, until it ends the epoch instead."""
        self._ruling.ordered_s = ordered_s

    def set_ruled(self, ruled: Callable[[], Awaitable[None]]) -> None:
        """Called when other rules are in force than before, before anything is decided under them."""
        self.epochs.ruled = ruled

    @property
    def epoch(self) -> str:
        """The fleet's."""
        return self._state.epoch

    @property
    def rules(self) -> int:
        """The number of the rules that are in force here."""
        return self._state.rules

    @property
    def retries(self) -> Mapping[str, int]:
        """Tries that were made again, by what had moved under them."""
        return self._carrier.retries

    @property
    def shards(self) -> int:
        """Over how many shards transactions are spread."""
        return self.epochs.standing.shards

    @property
    def high_water(self) -> float:
        """The latest time any operation went by here, seconds since the epoch."""
        return self._state.high

    @property
    def owed(self) -> int:
        """Marks in force on this broker only, because their commit failed."""
        return len(self._state.owed)

    @property
    def forged(self) -> int:
        """How often the swift engine held what no broker of this fleet wrote; each ended an epoch."""
        return self._carrier.forged + self.sequencer.forged

    @property
    def knows_marks(self) -> bool:
        """Whether this broker has compared its marks with the truth just now."""
        return self.hearing.knows_marks

    @property
    def queued(self) -> int:
        """Operations that wait to be durable."""
        return self.durable.waiting

    def use(self, limits: Limits, bundles: Callable[[], int]) -> None:
        """Hand over compiled limits; `bundles`: their generation."""
        self._state.use(limits, bundles)

    def heed(self, *, ended: Tell, marked: Callable[[], None]) -> None:
        """See `SqliteStore.heed`."""
        self._tell, self._marked = ended, marked

    def set_catch_up(self, load: Callable[[], Awaitable[None]]) -> None:
        """It compiles the versions in force, where they are not."""
        self._catch_up = load

    def set_guard(self, guard: Callable[[str], None]) -> None:
        """See `SqliteStore.set_guard`."""
        self._guard = guard

    async def open(self, command: OpenCommand) -> StepRecord:
        """Open a root or a child."""
        self._admit("open")
        if command.step.parent is None:
            return await self._open_root(command)
        job = Job(await self._txn("steps", command.step.parent))
        if command.ask is not None:
            asked = await self._asked(command)
            return await self._run(job, lambda: self._asking(asked, command))
        return await self._run(job, lambda: opening.open_step(self._state, command))

    async def accept(self, command: AcceptCommand) -> tuple[StepRecord, Grant | None]:
        """Accept a round; a self grant is spent in the same write."""
        self._admit("accept")
        job = Job(await self._txn("steps", command.step))
        return await self._run(job, lambda: accepting.accept(self._state, command))

    async def resume(self, command: ResumeCommand) -> tuple[StepRecord, Grant | None]:
        """Take the next run of a deferred step."""
        self._admit("resume")
        job = Job(await self._txn("steps", command.step))
        return await self._run(job, lambda: deferring.resume(self._state, command))

    async def sealed_args(self, step: str) -> bytes | None:
        """A step's sealed arguments, while it lives."""
        row = await self._read("steps", step, lambda: self._state.conn.execute(_SEALED, (step,)).fetchone())
        return None if row is None else row[0]

    async def reserve(self, command: ReserveCommand) -> GrantRecord:
        """Reserve a credential: it is `issued` when this returns."""
        self._admit("reserve")
        job = Job(await self._txn("steps", command.grant.step))
        return await self._run(job, lambda: granting.reserve(self._state, command))

    async def redeem(self, command: RedeemCommand) -> tuple[GrantRecord, StepRecord]:
        """Spend exactly once; the truth has it under its unique id when this returns."""
        self._admit("redeem")
        txn = await self._find("grants", command.grant)
        if txn is None:
            raise Refused("not_found", "no such credential")
        return await self._run(Job(txn), lambda: granting.redeem(self._state, command))

    async def move(self, command: MoveCommand) -> Moved:
        """Wait, heartbeat, close. A heartbeat promises nothing that would have to be durable."""
        job = Job(await self._txn("steps", command.step))
        wait = command.verb != "heartbeat"
        return await self._run(job, lambda: moving.move(self._state, command), wait=wait)

    async def attend(self, command: AttendCommand) -> StepRecord:
        """The initiator asks about its step's task; its proof is spent."""
        job = Job(await self._txn("steps", command.step))
        return await self._run(job, lambda: attending.attend(self._state, command))

    async def mark(self, command: MarkCommand) -> Mark:
        """Durable, and in force on every broker, before it returns."""
        stands = await self._ruling.mark(command)
        if stands.verb == "revoke":
            self._marked()
        return stands

    async def apply(self, command: VersionCommand) -> StoredVersion:
        """The next version, in force on every broker when it returns."""
        version = await self._ruling.apply(command)
        if command.marks:
            self._marked()
        return version

    async def pin(self, pin: KeyPin) -> None:
        """The first key shown with a bearer document stays its only one."""
        self._state.at(pin.now)
        check_kept(self._state, pin.until)
        proofs = [Used(name_of(each.kind, each.key), each.until) for each in pin.proofs]
        for each in pin.proofs:
            check_kept(self._state, each.until)
        try:
            stands = await self._truth.pin(name_of("jwt-svid", pin.svid), pin.jkt, pin.until, proofs)
        except Refused as replay:
            kind = pin.proofs[0].kind if pin.proofs else "key"
            raise Refused(replay.code, f"this {kind} proof was used before", rule=f"proof {kind}") from replay
        if stands != pin.jkt:
            raise Refused(
                "replay",
                "this JWT-SVID was first shown with another key: it was stolen, or two processes share it",
                rule="second_key",
                who_can_change_it="the operator of the caller (one SPIFFE ID, or one key, for each process)",
            )

    async def record(self, happening: Happening) -> None:
        """One entry; shed when many wait."""
        if self._saying >= SHED_RECORDS_AT or self.durable.waiting >= SHED_RECORDS_AT:
            raise Unavailable("unavailable", "records are shed: too many operations wait", rule="store")
        self._saying += 1
        try:
            await self._ruling.record(happening)
        finally:
            self._saying -= 1

    async def step(self, step: str) -> StepRecord | None:
        """A durable step."""
        found = await self._read("steps", step, lambda: find_step(self._state, step))
        return None if found is None else found[0].record

    async def past(self, txn: str) -> Past:
        """All durable steps of a transaction."""
        return await self._carrier.read((txn,), lambda: self._past(txn))

    def _past(self, txn: str) -> Past:
        known = find_txn(self._state, txn)
        return NO_PAST if known is None else find_past(self._state, known)

    async def knows(self, txn: str) -> bool:
        """Whether the transaction is here and not purged."""
        return await self._carrier.read((txn,), lambda: find_txn(self._state, txn) is not None)

    async def grant(self, grant: str) -> GrantRecord | None:
        """A durable grant."""
        found = await self._read("grants", grant, lambda: find_grant(self._state, grant))
        return None if found is None else found.record

    async def version(self, kind: VersionKind, number: int | None = None) -> StoredVersion | None:
        """A version by number, or the one in force."""
        if number is not None:
            return await self._truth.version(kind, number)
        history = await self._truth.history(kind)
        return history[-1] if history else None

    async def history(self, kind: VersionKind) -> Sequence[StoredVersion]:
        """All versions, oldest first."""
        return await self._truth.history(kind)

    def marks(self) -> Mapping[str, Mark]:
        """The standing marks; a live view."""
        return MappingProxyType(self._state.marks)

    def tats(self) -> Mapping[str, float]:
        """The rate counters, as far as this broker knows them."""
        return self._shares.tats()

    def outstanding(self) -> Mapping[str, int]:
        """A fleet's concurrency counters are in the swift engine."""
        return {}

    def headroom(self) -> Headroom:
        """A fleet's disks are its engines' own."""
        return Headroom(used=0, free=0, ledger=0, entries=0)

    async def reap_in_turn(self, now: float) -> Reaped:
        """One whole sweep where this broker carries the streams, or nobody does; else only what is late."""
        if await self._truth.leader() in ("", self.process):
            return await self.reap(now)
        await self._tidy(now)
        async with self._walking:
            return await self._sweeping.reap_late(now)

    async def reap(self, now: float) -> Reaped:
        """One whole sweep; first what is owed."""
        await self._tidy(now)
        swept = await self._sweeping.reap(now)
        walked = await self.walk(now)
        return Reaped(
            steps=swept.steps + walked.steps,
            grants=swept.grants + walked.grants,
            purged=swept.purged + walked.purged,
        )

    async def erase(self, command: EraseCommand) -> Erased:
        """Salt, documents and the entry of it, durable when this returns."""
        return await self._erasing.erase(command)

    async def _tidy(self, now: float) -> None:
        """What is this broker's own. Marks on what is gone go without a new number of the rules: who has them
        forgets them by and by.
        """
        for command in self._ruling.owed():
            await self._ruling.mark(command)
        self._shares.prune(self._state.at(now))
        self._reaps += 1
        if self._reaps % RELOAD_EVERY == 0:
            await self.epochs.reload()

    async def walk(self, now: float) -> Reaped:
        """Follow new revocations down to all that they end."""
        async with self._walking:
            return await self._sweeping.walk(now)

    async def backup(self, path: str) -> None:
        """The truth is PostgreSQL's, and is backed up as PostgreSQL is."""
        raise Unavailable(
            "unavailable",
            f"a fleet's store is backed up with PostgreSQL's own tools, not to {path}",
            rule="store",
            who_can_change_it="the operator (docs/reference/fleet-postgres.md)",
        )

    async def close(self) -> None:
        """Let go of both engines."""
        await self._swift.close()
        await self._truth.close()

    def told(self, ended: Sequence[tuple[str, str, str, str]]) -> None:
        """Steps that another broker ended, durably."""
        if ended:
            self._tell(
                [
                    Ended(step=step, performer=SpiffeId(performer), state=state, ref=ref)  # type: ignore[arg-type]
                    for step, performer, state, ref in ended
                ]
            )

    def _admit(self, verb: str) -> None:
        self._guard(verb)
        self.clock.check()
        if self.durable.waiting >= WAITING_MAX:
            raise Unavailable("unavailable", "too many operations wait", rule="backlog", retry_after=1.0)

    async def _run(self, job: Job, verb: Callable[[], T], *, wait: bool = True) -> T:
        """Where another broker put a version in force that is not compiled here yet, it is first: what was
        decided on the one before is decided again, and nobody is told that we are behind.
        """
        try:
            return (await self._carrier.run(job, verb, wait=wait)).answer
        except (Conflict, Unavailable) as behind:
            if behind.code != "stale_version" and behind.rule != "limits":
                raise
            with contextlib.suppress(Problem):
                await self._catch_up()
            if isinstance(behind, Conflict):
                raise
        return (await self._carrier.run(job, verb, wait=wait)).answer

    def _done(self, plan: Plan[Any]) -> None:
        for change in plan.changes:
            for row in change.put:
                self._remember(row.field, change.txn)
        self.told(plan.ended)
        self.hearing.tell_ended(plan.ended)

    async def _open_root(self, command: OpenCommand) -> StepRecord:
        """The operation's own transaction is claimed first: a repeat comes with another name for it."""
        key, txn = op_key(command.op), command.step.txn
        cause = command.step.intent.cause
        beside = () if cause is None else (await self._txn("steps", cause),)
        mine = Once(key, txn, self._state.at(command.now) + CLAIM_S)
        stands = await self._claimed(mine, command.now)
        done = await self._truth.operation(key)
        if done is not None:
            stands = await self._find("steps", done.answer)
            if stands is None:
                raise Refused("expired", "what this operation opened is over and gone")
        is_mine = stands in (None, txn)
        if not is_mine:
            await self._carrier.look(stands or txn)
            return await self._run(Job(stands or txn), lambda: self._opened(command, stands or txn))
        job = Job(txn, beside=beside, is_root=True, claimed=(mine,))
        return await self._run(job, lambda: opening.open_step(self._state, command))

    def _opened(self, command: OpenCommand, txn: str) -> StepRecord:
        """What the first try opened. Where its answer is forgotten nothing is opened: the truth may know of
        the operation, and takes it once.
        """
        if find_txn(self._state, txn) is None:
            raise Unavailable(
                "unavailable", "the first try of this operation is under way", rule="store", retry_after=1.0
            )
        if answered(self._state, op_key(command.op), command.op) is None:
            raise Refused("expired", "what this operation opened was too long ago to be answered again")
        return opening.open_step(self._state, command)

    async def _claimed(self, claim: Once, now: float) -> str | None:
        """The value that stands."""
        for _ in range(EPOCH_TRIES):
            epoch = self.epochs.epoch
            try:
                return (await self._swift.claim(epoch, [claim], now))[0]
            except EpochOver:
                await self.epochs.renew(epoch)
        raise Unavailable("unavailable", "the fleet's epoch changes again and again", rule="epoch")

    async def _asked(self, command: OpenCommand) -> Asked:
        step = command.step
        tool = "" if step.action is None else step.action.tool
        since = command.now - self._state.limits().approvals.cooldown_s
        mine, theirs, denied = await self._truth.asked(
            asker_of(step), step.tenant, step.initiator, tool, since
        )
        return Asked(of_requester=mine, of_initiator=theirs, denied_at=denied)

    def _asking(self, asked: Asked, command: OpenCommand) -> StepRecord:
        self._state.asking = asked
        return opening.open_step(self._state, command)

    async def _txn(self, table: str, name: str) -> str:
        txn = await self._find(table, name)
        if txn is None:
            raise Refused("not_found", "no such step")
        return txn

    async def _find(self, table: str, name: str) -> str | None:
        """The transaction of a row: what was acknowledged is in the truth."""
        field = f"{table}:{name}"
        found = self._whose.get(field) or await self._truth.whose(field)
        if found is not None:
            self._remember(field, found)
        return found

    async def _read(self, table: str, name: str, find: Callable[[], T | None]) -> T | None:
        txn = await self._find(table, name)
        return None if txn is None else await self._carrier.read((txn,), find)

    def _remember(self, field: str, txn: str) -> None:
        if field.partition(":")[0] in ("steps", "grants", "approvals"):
            self._whose[field] = txn
            if len(self._whose) > WHOSE_HELD:
                self._whose.popitem(last=False)
