"""Everything about identities changes under load, and not one request fails.

SVIDs live for a minute; every workload is a process of its own. What is measured is shown at the end of the
run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509
from tests.live.spire.authorities import key_ids, signer
from tests.live.spire.load import Load, lanes, workloads
from tests.live.spire.measured import Measured
from tests.live.spire.remote import BROKER, RemoteStage, Serials

from stepwrit_broker.dev.spire import ServerOptions, SpireDomain
from stepwrit_broker.dev.spire.registration import Authority

DOMAIN = "turn.test"
LANES = 6
ROTATIONS = 100
LIFE_S = 60
WITHIN_S = 300.0
LOOK_S = 0.2
AUTHORITIES: tuple[Authority, ...] = ("x509", "jwt")


@dataclass
class Turning:
    """A trust domain, a broker in it, and how everybody's identity was when last looked at."""

    spire: SpireDomain
    stage: RemoteStage
    serials: Serials = field(default_factory=Serials)
    looks: Sequence[dict[str, Any]] = ()
    looking: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Look again and again."""
        self.looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        while True:
            self.looks = [*await self.stage.looks(), self._broker()]
            for each in self.looks:
                if each["serial"] is not None:
                    self.serials.note(each["id"], each["serial"])
            await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """Look no more."""
        assert self.looking is not None
        self.looking.cancel()
        await asyncio.gather(self.looking, return_exceptions=True)

    def _broker(self) -> dict[str, Any]:
        identity = self.stage.broker.identity
        snapshot = identity.snapshot()
        leaf = x509.load_der_x509_certificate(snapshot.chain[0])
        return {
            "state": identity.health().state,
            "id": snapshot.spiffe_id,
            "serial": leaf.serial_number,
            "signer": signer(leaf),
            "roots": key_ids(snapshot.bundles[DOMAIN]),
        }

    async def until(self, what: str, true: Callable[[], bool], within_s: float = WITHIN_S) -> float:
        """Seconds until it is so, by looks that began after now."""
        began = time.monotonic()
        self.looks = ()
        while not self.looks or not true():
            assert self.looking is not None
            if self.looking.done():
                self.looking.result()
            assert time.monotonic() - began < within_s, f"not within {within_s:g} s: {what}"
            await asyncio.sleep(LOOK_S / 4)
        return time.monotonic() - began

    def all_in(self, state: str) -> bool:
        return all(each["state"] == state for each in self.looks)

    def kids(self) -> set[str]:
        """Key ids of the JWT authorities that the broker trusts."""
        return set(self.stage.broker.jwt_bundles.current().by_domain.get(DOMAIN, {}))


@pytest.fixture
async def turning() -> AsyncIterator[Turning]:
    options = ServerOptions(x509_ttl_s=LIFE_S, jwt_ttl_s=LIFE_S)
    async with SpireDomain(DOMAIN, server=options) as spire:
        await spire.enrol(BROKER)
        async with RemoteStage(spire, entries=lanes(LANES), policy="low-risk") as stage:
            await stage.enrol(*workloads(LANES))
            made = Turning(spire, stage)
            made.start()
            yield made
            await made.stop()


async def test_nothing_fails_while_svids_authorities_server_and_agent_change(
    turning: Turning, measured: Measured
) -> None:
    async with Load(stage=turning.stage, lanes=LANES) as load:
        await turning.until("a rotation of each", lambda: turning.serials.fewest >= 1)
        await _server_crashes(turning)
        await _agent_crashes(turning, measured)
        await _authorities_change(turning, measured)
        await turning.until("rotations", lambda: turning.serials.rotations >= ROTATIONS)
    assert load.failed == []
    assert load.requests > 500
    measured("rotations of X.509-SVIDs", turning.serials.rotations)
    measured("requests meanwhile", load.requests)
    measured("requests failed meanwhile", len(load.failed))


async def _server_crashes(turning: Turning) -> None:
    await turning.spire.server.kill()
    await asyncio.sleep(3)
    await turning.until("the agent serves what it has", lambda: turning.all_in("ok"), 10)
    await turning.spire.server.start()


async def _agent_crashes(turning: Turning, measured: Measured) -> None:
    await turning.spire.agent.kill()
    await turning.until("everybody knows", lambda: turning.all_in("stale"), 30)
    await asyncio.sleep(3)
    began = time.monotonic()
    await turning.spire.agent.start()
    await turning.until("everybody is well again", lambda: turning.all_in("ok"), 60)
    measured("seconds from an agent's start to everybody being well again", time.monotonic() - began)


async def _authorities_change(turning: Turning, measured: Measured) -> None:
    """Prepared, activated, tainted, revoked: of X.509 and JWT alike."""
    api = turning.spire.server.api
    roots, kids = {key for each in turning.looks for key in each["roots"]}, turning.kids()
    old = {kind: (await api.authorities(kind))["active"]["authority_id"] for kind in AUTHORITIES}
    node = await _node_serial(turning)
    new = {kind: await api.prepare_authority(kind) for kind in AUTHORITIES}
    await turning.until("everybody knows the next ones", lambda: _grown(turning, roots, kids), 60)
    for kind in AUTHORITIES:
        await api.activate_authority(kind, new[kind])
        await api.taint_authority(kind, old[kind])
    took = await turning.until(
        "nobody shows the old one", lambda: all(each["signer"] not in roots for each in turning.looks), 90
    )
    measured("seconds from a tainted authority to no SVID of it in use", took)
    async with asyncio.timeout(90):  # the agent too: it cannot attest again by a join token
        while await _node_serial(turning) == node:
            await asyncio.sleep(LOOK_S)
    for kind in AUTHORITIES:
        await api.revoke_authority(kind, old[kind])
    took = await turning.until("nobody trusts the old one", lambda: _gone(turning, roots, kids), 60)
    measured("seconds from a revoked authority to nobody trusting it (sync 1 s)", took)


async def _node_serial(turning: Turning) -> str:
    """The serial number of the agent's own SVID."""
    (agent,) = await turning.spire.server.api.agents()
    return str(agent["x509svid_serial_number"])


def _grown(turning: Turning, roots: set[str], kids: set[str]) -> bool:
    return all(set(each["roots"]) > roots for each in turning.looks) and turning.kids() > kids


def _gone(turning: Turning, roots: set[str], kids: set[str]) -> bool:
    return not any(roots & set(each["roots"]) for each in turning.looks) and not kids & turning.kids()
