"""Plain `curl` with SVIDs that `spire-agent api fetch` wrote, at a broker that SPIRE gave a host name."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.stage import ENTRIES, Stage
from tests.oauth.how_to import check, follow
from tests.oauth.standard import BEARER_ENTRIES, PLANNER, WORKER, free_port

from stepwrit_broker.dev.spire import SpireDomain
from stepwrit_broker.dev.tools import find
from stepwrit_broker.wiring.settings import Address, BrokerSettings

DOMAIN = "standard.test"


class NamedStage(Stage):
    """A broker that is reached by name, as whoever verifies names has to: SPIRE names no addresses."""

    port = 0

    def settings(self) -> BrokerSettings:
        self.port = self.port or free_port()
        mtls = Address(host="127.0.0.1", port=self.port)
        return replace(super().settings(), mtls=mtls, mtls_url=f"https://localhost:{self.port}")


@pytest.fixture
async def named() -> AsyncIterator[tuple[SpireDomain, Stage]]:
    async with SpireDomain(DOMAIN) as domain:
        await domain.enrol("stepwrit/broker", dns_names=("localhost",))
        await domain.enrol(PLANNER, WORKER, "resource/bank/1")
        await domain.enrol(WORKER, executable=Path(find("spire-agent")).resolve())
        issuer = f"https://localhost:{free_port()}"
        entries = [*ENTRIES, *BEARER_ENTRIES]
        async with NamedStage(domain=DOMAIN, identities=domain, entries=entries, issuer=issuer) as stage:
            yield domain, stage


async def fetch(domain: SpireDomain, kind: str, *more: str) -> str:
    """`spire-agent api fetch`, once the agent knows of its entry."""
    command = [
        find("spire-agent"),
        "api",
        "fetch",
        kind,
        "-socketPath",
        domain.socket.removeprefix("unix://"),
        *more,
    ]
    async with asyncio.timeout(60):
        while True:
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                return done.stdout
            await asyncio.sleep(0.5)


async def test_the_page_works_with_what_spire_writes(
    named: tuple[SpireDomain, Stage], tmp_path: Path
) -> None:
    domain, stage = named
    await fetch(domain, "x509", "-write", str(tmp_path))
    said: Any = json.loads(await fetch(domain, "jwt", "-audience", stage.issuer_url, "-output", "json"))
    svid = next(each["svid"] for part in said for each in part.get("svids", ()))
    opened = await follow(stage, tmp_path, svid)
    await check(stage, tmp_path, opened)
