"""Who runs a step hears that others ended it: at once where they wait, and never what is not theirs."""

from __future__ import annotations

import asyncio

import pytest
from tests.flows.rig import FILES, MAIL, Rig
from tests.flows.test_opening import revoke

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.flows import ended
from stepwrit_broker.ports_ended import Ended, Heard
from stepwrit_broker.wiring import ending
from stepwrit_broker.wiring.ending import Endings

OTHER = SpiffeId("spiffe://example.test/mcp/other")


async def ask(rig: Rig, cursor: str | None, wait_s: float = 0.0, who: SpiffeId = MAIL) -> Heard:
    return await ended.ended_since(rig.house, rig.caller(who, key=False), cursor, wait_s)


async def test_a_poll_is_held_until_the_mark_was_followed(rig: Rig) -> None:
    step = await rig.accepted()
    first = await ask(rig, None)
    held = asyncio.create_task(ask(rig, first.after, 600))
    other = asyncio.create_task(ask(rig, (await ask(rig, None, who=FILES)).after, 600, who=FILES))
    await revoke(rig, f"step:{step.step.id}")
    await rig.store.walk(rig.clock.time)
    heard = await held
    assert [(each.step, each.state) for each in heard.ended] == [(step.step.id, "revoked")]
    assert heard.complete
    assert not other.done()
    other.cancel()


async def test_a_poll_for_which_there_is_nothing_ends_by_its_time(rig: Rig) -> None:
    first = await ask(rig, None)
    assert await ask(rig, first.after, 0.001) == Heard(after=first.after, ended=(), complete=True)


@pytest.mark.parametrize(
    "cursor", [None, "", "x", "other.0", "{epoch}.", "{epoch}.-1", "{epoch}.٣", "{epoch}.9"]
)
async def test_a_cursor_of_nowhere_is_incomplete_and_not_held(rig: Rig, cursor: str | None) -> None:
    known = await ask(rig, f"{rig.store.epoch}.0", 0.0)
    assert known.complete
    asked = None if cursor is None else cursor.replace("{epoch}", rig.store.epoch)
    async with asyncio.timeout(5):
        assert not (await ask(rig, asked, 600)).complete


def of(performer: SpiffeId, *names: str) -> list[Ended]:
    return [Ended(step=name, performer=performer, state="revoked", ref="R") for name in names]


async def test_what_was_forgotten_shows_as_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "KEPT_MAX", 3)
    ends = Endings("e")
    first = (await ends.since(MAIL, None, 0)).after
    ends.tell(of(MAIL, "a", "b"))
    whole = await ends.since(MAIL, first, 0)
    assert ([each.step for each in whole.ended], whole.complete) == (["a", "b"], True)
    ends.tell(of(OTHER, "x", "y"))
    part = await ends.since(MAIL, first, 0)
    assert ([each.step for each in part.ended], part.complete) == (["b"], False)
    assert (await ends.since(MAIL, whole.after, 0)).complete


async def test_a_performer_that_was_forgotten_is_woken_and_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "PERFORMERS_MAX", 1)
    ends = Endings("e")
    ends.tell(of(MAIL, "a"))
    cursor = (await ends.since(MAIL, "e.0", 0)).after
    held = asyncio.create_task(ends.since(MAIL, cursor, 600))
    await asyncio.sleep(0)
    ends.tell(of(OTHER, "x"))
    heard = await held
    assert (heard.ended, heard.complete) == ((), False)


async def test_one_workload_takes_not_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "HELD_EACH_MAX", 1)
    ends = Endings("e")
    held = [asyncio.create_task(ends.since(MAIL, "e.0", 600))]
    await asyncio.sleep(0)
    with pytest.raises(Refused) as busy:
        await asyncio.wait_for(ends.since(MAIL, "e.0", 600), 5)
    assert busy.value.code == "slow_down"
    held.append(asyncio.create_task(ends.since(FILES, "e.0", 600)))
    await asyncio.sleep(0)
    assert not held[1].done()
    ends.close()
    assert [(await each).ended for each in held] == [(), ()]


async def test_only_so_many_are_held_and_none_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "HELD_MAX", 1)
    ends = Endings("e")
    held = asyncio.create_task(ends.since(MAIL, "e.0", 600))
    await asyncio.sleep(0)
    with pytest.raises(Refused) as busy:
        await ends.since(OTHER, "e.0", 600)
    assert (busy.value.code, busy.value.retry_after) == ("slow_down", 20.0)
    ends.close()
    assert (await held).ended == ()
    assert (await ends.since(OTHER, "e.0", 600)).ended == ()
