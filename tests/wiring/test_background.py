"""Work beside answering: it is logged when it fails, goes on, and ends with the broker."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog.testing

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.wiring.background import Background


class Worker:
    """Dies as often as it is told to, then works until it is stopped."""

    def __init__(self, *deaths: Exception) -> None:
        self.deaths, self.starts = list(deaths), 0
        self.works, self.stopped = asyncio.Event(), False

    async def run(self) -> None:
        self.starts += 1
        if self.deaths:
            raise self.deaths.pop()
        self.works.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped = True


async def test_a_worker_that_dies_is_logged_and_begins_again() -> None:
    steady, frail = Worker(), Worker(ValueError("bad"), Unavailable("unavailable", "no store"))
    with structlog.testing.capture_logs() as logs:
        async with AsyncExitStack() as stack:
            background = Background(stack)
            background.keep(steady.run, pause_s=0.0)
            background.keep(frail.run, pause_s=0.0)
            await asyncio.gather(steady.works.wait(), frail.works.wait())
    assert (steady.starts, frail.starts) == (1, 3)
    assert steady.stopped
    assert frail.stopped
    told = [(each["log_level"], each["job"]) for each in logs]
    assert told == [("warning", "Worker.run"), ("error", "Worker.run")]
    assert "ValueError: bad" in logs[1]["exception"]


async def test_what_is_done_once_and_fails_is_logged_and_not_done_again() -> None:
    once, fails = Worker(), Worker(ValueError("bad"))
    with structlog.testing.capture_logs() as logs:
        async with AsyncExitStack() as stack:
            background = Background(stack)
            background.spawn(fails.run)
            background.spawn(once.run)
            await once.works.wait()
    assert (once.starts, fails.starts) == (1, 1)
    assert [each["job"] for each in logs] == ["Worker.run"]


async def test_what_recurs_goes_on_after_a_failure() -> None:
    frail = Worker(ValueError("bad"))
    with structlog.testing.capture_logs() as logs:
        async with AsyncExitStack() as stack:
            Background(stack).every(0.0, frail.run)
            await frail.works.wait()
    assert frail.starts == 2
    assert len(logs) == 1


async def test_what_is_woken_runs_once_for_each_time_and_goes_on_after_a_failure() -> None:
    frail, event = Worker(ValueError("bad")), asyncio.Event()
    with structlog.testing.capture_logs() as logs:
        async with AsyncExitStack() as stack:
            Background(stack).when(event, frail.run)
            await asyncio.sleep(0)
            assert frail.starts == 0
            event.set()
            while not logs:
                await asyncio.sleep(0)
            assert not event.is_set()
            event.set()
            await frail.works.wait()
    assert frail.starts == 2
