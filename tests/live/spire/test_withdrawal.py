"""What is taken back is gone within one synchronisation of the agent; what slept recovers by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from tests.fakes.stage import Reply
from tests.live.spire.load import CEILING, Load, lanes, workloads
from tests.live.spire.measured import Measured
from tests.live.spire.remote import BROKER, RemoteStage, until

from stepwrit.errors import IdentityUnavailable
from stepwrit.flow import Lost
from stepwrit_broker.dev.spire import AgentOptions, ServerOptions, SpireDomain

DOMAIN = "back.test"
LIFE_S = 60
SYNC_S = 1.0
NIGHT = "trigger/night/0"


@pytest.fixture
async def domain() -> AsyncIterator[SpireDomain]:
    options = ServerOptions(x509_ttl_s=LIFE_S, jwt_ttl_s=LIFE_S)
    async with SpireDomain(DOMAIN, server=options, agent=AgentOptions(sync_s=SYNC_S)) as spire:
        await spire.enrol(BROKER)
        yield spire


@pytest.fixture
async def stage(domain: SpireDomain) -> AsyncIterator[RemoteStage]:
    async with RemoteStage(domain, entries=lanes(1), policy="low-risk") as made:
        await made.enrol(*workloads(1))
        yield made


async def intent(stage: RemoteStage) -> Reply:
    night = await stage.actor("trigger/night/0")
    return await night.form(night.intent_form(ceiling=CEILING))


async def told(stage: RemoteStage) -> dict[str, Any]:
    async with httpx2.AsyncClient() as http:
        reply = await http.get(f"{stage.broker.ops.url}/healthz", params={"verbose": "true"})
        return dict(reply.json()["identity"])


async def state_of(stage: RemoteStage, path: str, wanted: str, within_s: float) -> float:
    """Seconds until a workload's identity is in that state."""
    began = time.monotonic()
    while (seen := await stage.workloads[path].look())["state"] != wanted:
        assert time.monotonic() - began < within_s, seen
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_deleted_entry_ends_the_identity_within_a_sync(
    domain: SpireDomain, stage: RemoteStage, measured: Measured
) -> None:
    assert (await intent(stage)).ok()
    await domain.expel(NIGHT)
    took = await state_of(stage, NIGHT, "withdrawn", 30)
    measured(f"seconds from a deleted entry to no identity (sync {SYNC_S:g} s)", took)
    with pytest.raises(IdentityUnavailable, match="no registration entry matches"):
        await intent(stage)


async def test_after_an_eviction_svids_end_and_a_new_node_is_enough(
    domain: SpireDomain, stage: RemoteStage, measured: Measured
) -> None:
    """The agent ends within a sync, so nothing is renewed; the last SVID ends by its own time."""
    async with Load(stage=stage, lanes=1, bearer=False) as load:
        assert not load.failed
        began = time.monotonic()
        await domain.server.api.evict_agent(domain.agent.spiffe_id)
        took = await until("the agent has ended", lambda: not domain.agent.process.runs, 30)
        measured(f"seconds from an evicted agent to its end (sync {SYNC_S:g} s)", took)
        identity = stage.broker.identity
        await until("the broker's SVID has ended", lambda: identity.health().state == "expired", LIFE_S + 30)
        measured(
            f"seconds from an evicted agent to no SVID at all (life {LIFE_S} s)", time.monotonic() - began
        )
        assert (await told(stage))["state"] == "expired"
        with pytest.raises((IdentityUnavailable, Lost)):
            await intent(stage)
    await domain.agent.attest_again()
    await stage.enrol_again()
    took = await until("the broker is well", lambda: identity.health().state == "ok", 60)
    measured("seconds from a new node's first entries to a broker that is well", took)
    await recovered(stage)


async def test_a_machine_that_slept_past_its_svids_recovers_by_itself(
    domain: SpireDomain, stage: RemoteStage, measured: Measured
) -> None:
    """Server and agent stand still for longer than an SVID lives; broker and callers are not restarted."""
    assert (await intent(stage)).ok()
    pid, identity = os.getpid(), stage.broker.identity
    for process in (domain.agent.process, domain.server.process):
        process.send(signal.SIGSTOP)
    try:
        await until("the SVID has ended", lambda: identity.health().state == "expired", LIFE_S + 30)
        with pytest.raises(IdentityUnavailable):
            identity.snapshot()
        said = await told(stage)
        assert (said["state"], domain.socket in said["why"]) == ("expired", True)
    finally:
        for process in (domain.server.process, domain.agent.process):
            process.send(signal.SIGCONT)
    took = await until("the broker is well", lambda: identity.health().state == "ok", 60)
    measured("seconds from a wake-up with ended SVIDs to a broker that is well", took)
    await recovered(stage)
    assert os.getpid() == pid


async def recovered(stage: RemoteStage) -> None:
    """Callers too: by themselves, within a minute."""
    for path in stage.workloads:
        await state_of(stage, path, "ok", 60)
    async with Load(stage=stage, lanes=1, bearer=False) as load:
        await until("cycles", lambda: load.requests > 24, 60)
    assert load.failed == []
