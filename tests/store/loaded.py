"""A process that keeps a store busy and says on its standard output what it was told; made to be killed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.contracts import store_suite_approvals as approvals
from tests.fakes import build
from tests.fakes.build import Maker
from tests.fakes.entropy import SeededEntropy

from stepwrit_broker.core.errors import Problem, Refused
from stepwrit_broker.core.limits import ApprovalLimits
from stepwrit_broker.core.step import StepRecord
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.store.sqlite import SqliteStore
from stepwrit_broker.store.start import open_store

WORKERS = 12
SELF_EVERY, MARK_EVERY, LEAVE_EVERY, ASK_EVERY = 7, 11, 5, 3


def say(line: str) -> None:
    """One write, so that a killed process never leaves half a line."""
    os.write(1, (line + "\n").encode())


async def spend(store: SqliteStore, make: Maker, record: StepRecord, line: int) -> None:
    """One credential, four hands after it, two with the same operation: exactly one go-ahead."""
    reserved = await store.reserve(make.reserve(make.grant(record, plan_line=line)))
    say(f"issued {reserved.grant.id}")
    commands = [make.redeem(reserved.grant) for _ in range(3)]
    tries = [store.redeem(command) for command in (*commands, commands[0])]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    wins = [answer for answer in answers if not isinstance(answer, BaseException)]
    losses = [answer for answer in answers if isinstance(answer, Refused) and answer.code == "replay"]
    if not wins or len(wins) + len(losses) != len(answers) or len(wins) > 2:
        say(f"broken {reserved.grant.id}: {answers}")
        os._exit(3)
    say(f"redeemed {reserved.grant.id}")


async def cycle(store: SqliteStore, make: Maker, root: StepRecord, count: int) -> None:
    make.now = time.time()
    own = count % SELF_EVERY == 0
    opened = await store.open(make.open(make.child_step(root, action=build.action(is_self=own))))
    say(f"opened {opened.step.id}")
    grant = make.grant(opened, is_self=True) if own else None
    record, _ = await store.accept(make.accept(opened, self_grant=grant))
    if not own:
        await spend(store, make, record, 0)
        await store.reserve(make.reserve(make.grant(record, plan_line=1)))  # left for the close or the sweep
    if count % MARK_EVERY == 0:
        await store.mark(make.mark(f"step:{record.step.id}"))
        say(f"marked step:{record.step.id}")
    elif count % LEAVE_EVERY:
        await store.move(make.move(record, "close"))
        say(f"closed {record.step.id}")


async def approve(store: SqliteStore, make: Maker, root: StepRecord) -> None:
    """A step that a person must sign: two sign at once, two accept at once; one of each is one use."""
    make.now = time.time()
    step = make.child_step(root, approve_by=make.now + 600, expires_at=make.now + 900)
    wanted = approvals.ask(make, step)
    pending = await store.open(make.open(step, ask=wanted))
    say(f"asked {wanted.asked.id}")
    tries = [store.approvals.sign(approvals.signing(make, wanted.asked)) for _ in range(2)]
    signed = await asyncio.gather(*tries, return_exceptions=True)
    if not [each for each in signed if not isinstance(each, BaseException)]:
        say(f"broken {wanted.asked.id}: {signed}")
        os._exit(3)
    say(f"given {wanted.asked.id}")
    takes = [store.accept(make.accept(pending)) for _ in range(2)]
    taken = await asyncio.gather(*takes, return_exceptions=True)
    if len([each for each in taken if not isinstance(each, BaseException)]) != 1:
        say(f"broken {wanted.asked.id}: {taken}")
        os._exit(3)
    say(f"used {wanted.asked.id}")


async def work(store: SqliteStore, seed: int) -> None:
    make = Maker(now=time.time(), seed=seed, epoch=store.epoch)
    root = await store.open(make.open(make.root_step()))
    say(f"opened {root.step.id}")
    for count in range(1, 1_000_000):
        await cycle(store, make, root, count)
        if count % ASK_EVERY == 0:
            await approve(store, make, root)


async def main(path: Path, seed: int) -> None:
    store = open_store(path, log=SqliteLog(), entropy=SeededEntropy(seed))
    limits = build.limits(steps=10**6, fan_out=10**6)
    asks = ApprovalLimits(per_requester=10**6, per_initiator=10**6)
    store.use(replace(limits, approvals=asks), lambda: 0)
    say(f"up {store.epoch}")
    sweeps = asyncio.ensure_future(sweep(store))
    await asyncio.gather(*(work(store, seed * 1000 + at) for at in range(WORKERS)))
    await sweeps


async def sweep(store: SqliteStore) -> None:
    while True:
        await asyncio.sleep(0.05)
        await store.reap(time.time())


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
    except Problem as problem:
        say(f"broken {problem}")
        raise
