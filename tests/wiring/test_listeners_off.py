"""A listener that is off is missed by nobody."""

from __future__ import annotations

from tests.fakes.stage import Stage


async def test_a_broker_without_the_tls_listener_serves_workloads() -> None:
    stage = Stage()
    stage.tuned["tls"] = None
    async with stage:
        held = await stage.held()
        assert (await held.redeem()).ok()["grant"] == held.grant
