"""Recorded decisions asked again, entry by entry; the rest is told where the command is tested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from tests.flows.rig import Rig

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.verdict import Deny, Permit
from stepwrit_broker.flows.refusals import PER_CALLER
from stepwrit_broker.flows.replay import UNPROVED, replay
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.ports import KeptDecision, LoggedEntry


@pytest.fixture
async def view(rig: Rig) -> Any:
    await rig.credential(await rig.accepted())
    with closing(SqliteLedgerView(rig.path)) as one:
        yield one


async def test_what_was_decided_is_asked_again(rig: Rig, view: SqliteLedgerView) -> None:
    found = await replay(view, rig.policy.decide)
    assert (found.asked, found.same, found.left) == (3, 3, {})
    assert found.last == 3
    rig.policy.says = Deny(policies=(), reason="no")
    assert (await replay(view, rig.policy.decide)).same == 0


async def test_it_ends_when_it_is_told_to_and_says_how_far_it_came(rig: Rig, view: SqliteLedgerView) -> None:
    turns: Iterator[bool] = iter((True, False))
    found = await replay(view, rig.policy.decide, goes_on=lambda: next(turns))
    assert (found.asked, found.last) == (1, 0)


class Sealed:
    """A ledger whose bodies are in an export."""

    def __init__(self, real: SqliteLedgerView) -> None:
        self.real = real

    def tail(self, *asked: Any) -> list[LoggedEntry]:
        return [replace(each, facts=None) for each in self.real.tail(*asked)]

    def proved(self, entry: LoggedEntry) -> KeptDecision:
        return self.real.proved(entry)


async def test_what_is_only_in_an_export_is_counted(rig: Rig, view: SqliteLedgerView) -> None:
    root = await rig.start()
    rig.policy.says = Deny(policies=(), reason="no")
    for _ in range(PER_CALLER + 1):
        with pytest.raises(Refused):
            await rig.open(root)
    await rig.refusals.flush(rig.clock.now())
    rig.policy.says = Permit(policies=())
    sealed: Any = Sealed(view)
    found = await replay(sealed, rig.policy.decide)
    assert (found.asked, found.left) == (0, {UNPROVED["sealed"]: 5 + PER_CALLER + 1})
