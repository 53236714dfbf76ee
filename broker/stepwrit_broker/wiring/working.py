"""What runs beside answering, and how often."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stepwrit_broker.flows.settings import Live
from stepwrit_broker.wiring.background import Background, Chores
from stepwrit_broker.wiring.backing import Backing
from stepwrit_broker.wiring.federating import Federating
from stepwrit_broker.wiring.files import OperatorFiles
from stepwrit_broker.wiring.housing import Housed
from stepwrit_broker.wiring.rehearsing import Rehearsal
from stepwrit_broker.wiring.settings import BrokerSettings


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything that has something to do in the background."""

    settings: BrokerSettings
    background: Background
    backing: Backing
    live: Live
    files: OperatorFiles
    housed: Housed
    chores: Chores
    federating: Federating
    rehearsal: Rehearsal

    def begin(self) -> None:
        """From now on, until the broker's stack is left."""
        settings, background = self.settings, self.background
        self._heed()
        background.every(settings.reap_every_s, self.chores.reap)
        background.every(settings.checkpoint_every_s, self.backing.checkpoint)
        background.every(settings.watch_every_s, self.files.watch)
        background.every(10.0, self.chores.flush)
        background.every(2.0, self.chores.gauge)
        background.every(1.0, self.federating.gauge)
        background.every(1.0, self.backing.gauge)
        for run in (*self.backing.runs(), *self.federating.runs(), *self.housed.notifying.runs()):
            background.keep(run)
        background.spawn(self.rehearsal.shadow.resume)

    def _heed(self) -> None:
        """What somebody changed, here or on another broker, is followed at once."""
        marked, ruled = asyncio.Event(), asyncio.Event()
        self.housed.heed(self.backing, marked=marked, ruled=ruled)
        self.backing.catch_up(self.live.load)
        self.background.when(marked, self.chores.walk)
        self.background.when(ruled, self.live.load)
