"""The processes themselves: they come back where they were, and nothing outlives whoever started them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stepwrit.identity import WorkloadIdentity
from stepwrit_broker.cli.render import lineage_tree
from stepwrit_broker.dev.demo.run import play
from stepwrit_broker.dev.demo.tell import Teller
from stepwrit_broker.dev.spire import BundleEndpoint, ProcessFailed, Refused, ServerOptions, SpireDomain

ORPHANS = """
import asyncio
from stepwrit_broker.dev.spire import SpireDomain
async def main():
    domain = SpireDomain("orphan.test")
    await domain.start()
    print(domain.server.process.pid, domain.agent.process.pid, domain.folder, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.filterwarnings("ignore::stepwrit_broker.dev.ca.DevelopmentModeWarning")
async def test_the_whole_story_goes_as_told_on_real_spire() -> None:
    with tempfile.TemporaryDirectory(prefix="sw-demo-", dir="/tmp") as folder:
        told = await play(Path(folder), Teller(quiet=True, tree=lineage_tree), spire=True)
    assert told["as_told"], told["wrong"]
    assert told["identity"] == "spire"
    assert (told["issued"], told["redeemed"], told["revoked"]) == (4, 4, 4)


async def test_server_and_agent_come_back_with_the_same_identities() -> None:
    async with SpireDomain("back.test") as domain:
        await domain.enrol("agent/chat")
        identity = WorkloadIdentity(domain.socket, hint="agent/chat")
        await identity.start()
        before = await identity.wait_ready(60)
        await domain.server.kill()
        await domain.server.start()
        await domain.agent.kill()
        await domain.agent.start()
        async with asyncio.timeout(60):
            while identity.generation == before.generation:
                await asyncio.sleep(0.05)
        after = await identity.wait_ready(60)
        assert (after.spiffe_id, after.bundles) == (before.spiffe_id, before.bundles)
        assert [agent["banned"] for agent in await domain.server.api.agents()] == [False]
        await identity.close()


async def test_two_domains_federate_and_one_withdraws() -> None:
    endpoint = ServerOptions(bundle_endpoint=BundleEndpoint())
    async with (
        SpireDomain("one.test", server=endpoint) as one,
        SpireDomain("two.test", server=endpoint) as two,
    ):
        await one.server.api.federate(two.server.partnership(await two.server.api.bundle()))
        await one.server.api.refresh("two.test")
        assert set(await one.server.api.foreign_bundles()) == {"two.test"}
        await two.server.stop()
        with pytest.raises(Refused, match="failed to refresh bundle"):
            await one.server.api.refresh("two.test")
        await one.server.api.end_federation("two.test")
        await one.server.api.delete_bundle("two.test")
        assert not await one.server.api.foreign_bundles()


async def test_a_server_that_cannot_start_shows_the_end_of_its_log() -> None:
    good, bad = (
        SpireDomain("bad.test"),
        SpireDomain("bad.test", server=ServerOptions(settings={"ca_ttl": "x"})),
    )
    async with good:
        assert good.server.process.runs
    with pytest.raises(ProcessFailed, match=r"spire-server ended by itself(.|\n)*could not parse"):
        await bad.start()
    assert not bad.folder.exists()


async def test_nothing_outlives_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    line = await asyncio.to_thread(parent.stdout.readline)
    *pids, folder = line.split()
    running = [Path(f"/proc/{pid}/exe") for pid in pids]
    assert all("spire-" in str(each.readlink()) for each in running)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    async with asyncio.timeout(60):
        while any(_alive(each) for each in running):
            await asyncio.sleep(0.05)
    subprocess.run(["rm", "-r", folder], check=True)


def _alive(exe: Path) -> bool:
    try:
        return "spire-" in str(exe.readlink())
    except OSError:
        return False
