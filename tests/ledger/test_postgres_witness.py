"""A fleet whose brokers have all forgotten is held to its witness: a real one, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from tests.fakes.clock import FakeClock
from tests.ledger.helpers import KEY
from tests.rigs.ledgers import AT, Cluster, PgLedger, cluster, pg_ledger

from stepwrit_broker.config_witness import WitnessConfig, WitnessLog
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.ledger import keys
from stepwrit_broker.ledger.cosignature import cosigned
from stepwrit_broker.ledger.witness.remote import RemoteWitness
from stepwrit_broker.ledger.witness.state import create_state
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports_ledger import Published
from stepwrit_broker.wiring.ledgering_fleet import FleetLedgering
from stepwrit_broker.wiring.witness import WitnessServer
from stepwrit_broker.wiring.witnessing import Witnessing

pytestmark = pytest.mark.live
__all__ = ["cluster"]


class Fleet:
    """A witness, and brokers that come new to a database."""

    def __init__(self, ledger: PgLedger, stack: AsyncExitStack, folder: Path) -> None:
        self.run, self.stack, self.folder = ledger.run, stack, folder
        signer = keys.create_witness(folder / "witness.key", name="witness.example/w1", seed=b"w" * 32)
        create_state(folder / "witness.json")
        self._config = WitnessConfig(
            name="witness.example/w1",
            key_file=folder / "witness.key",
            state_file=folder / "witness.json",
            listen="127.0.0.1:0",
            ops="127.0.0.1:0",
            log=(WitnessLog(vkey=KEY.verifier.vkey),),
        )
        server = self.run(stack.enter_async_context(WitnessServer(self._config)))
        self.remote = RemoteWitness(url=server.listener.url, verifier=signer.verifier)

    def broker(self, ledger: PgLedger, name: str) -> tuple[FleetLedgering, Witnessing]:
        @asynccontextmanager
        async def use() -> AsyncIterator[Any]:
            conn: Any = await asyncpg.connect(ledger.dsn)
            try:
                yield conn
            finally:
                await conn.close()

        clock = FakeClock(AT)
        anchor = self.folder / f"{name}.json"
        log = FleetLedgering(KEY, anchor, use=use, source=ledger.source, clock=clock)
        self.run(log.admit())
        settings: Any = SimpleNamespace(
            witnesses=(self.remote,), witness_quorum=0, witness_alarm_s=120.0, witness_refuse_after_s=3600.0
        )
        return log, Witnessing(settings, log=log, clock=clock, metrics=Metrics(), stack=self.stack)


def test_a_broker_that_is_behind_the_others_doubts_nothing(cluster: Cluster, tmp_path: Path) -> None:
    with pg_ledger(cluster, tmp_path) as ledger:
        stack = AsyncExitStack()
        try:
            fleet = Fleet(ledger, stack, tmp_path)
            ledger.add(23)
            behind, late = fleet.broker(ledger, "late")
            fleet.run(late.first())
            ledger.add(170)
            _, other = fleet.broker(ledger, "other")
            fleet.run(other.first())
            assert (behind.signed() or published(other)).size == 23
            assert published(other).size == 193
            fleet.run(late._ask(late._all[0]))
            assert late.contradiction() is None
            assert published(late).size == 193
        finally:
            ledger.run(stack.aclose())


def published(witnessing: Witnessing) -> Published:
    found = witnessing.published()
    assert found is not None
    return found


def test_a_witness_cosigns_a_fleets_log_and_finds_it_set_back(cluster: Cluster, tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    with pg_ledger(cluster, tmp_path) as ledger, pg_ledger(cluster, older) as restored:
        stack = AsyncExitStack()
        try:
            fleet = Fleet(ledger, stack, tmp_path)
            restored.add(300)
            for count in (300, 1, 400):
                ledger.add(count)
                for name in ("one", "two"):  # both ask the same witness
                    _, witnessing = fleet.broker(ledger, name)
                    fleet.run(witnessing.first())
                    published = witnessing.published()
                    assert published is not None
                    assert published.size == ledger.size
                    assert len(cosigned(published.note, [fleet.remote.verifier])) == 1
                    witnessing.guard("open")
            _, doubting = fleet.broker(restored, "new")  # nobody's anchor is left
            fleet.run(doubting.first())
            assert "set back" in (doubting.contradiction() or "")
            with pytest.raises(Unavailable):
                doubting.guard("redeem")
        finally:
            ledger.run(stack.aclose())
