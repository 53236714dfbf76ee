"""What a broker needs around it, in the bench's own process: trust domain, issuer, files, and the runner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stepwrit_broker.dev.ca import DEV_TRUST_DOMAIN, DevelopmentModeWarning
from stepwrit_broker.dev.entries import dev_id, dev_registry
from stepwrit_broker.dev.oidc import DevIssuer
from stepwrit_broker.dev.workload_api import DevTrustDomain
from stepwrit_broker.policy.files import stance

REPO = Path(__file__).resolve().parents[2]
BROKER, AGENT, SERVER, BANK = "stepwrit/broker", "agent/dev", "mcp-server/ledger", "resource/bank"
AUDIENCE = "https://bank.example"
ENTRIES: list[dict[str, Any]] = [
    {
        "id": dev_id(SERVER),
        "role": "mcp-server",
        "name": "ledger",
        "url": "https://ledger.example/mcp",
        "tools": {
            "transfer": {"impact": "medium", "plan": [{"at": AUDIENCE, "request": "POST /v1/transfers"}]},
            "note": {"impact": "low", "plan": "self"},
        },
        "may_start": {"tools": ["ledger/note"], "impact": "low"},
    },
    {"id": dev_id(BANK), "role": "resource", "name": "bank", "audience": AUDIENCE},
]
# The development broker's limits, each out of the way but each still counted.
LIMITS = """\
version: 1
rates:
  - {name: per-workload, on: credentials, per: [workload], rate: 999999999/s, burst: 1000000}
  - {name: steps-per-workload, on: steps, per: [workload], rate: 999999999/s, burst: 1000000}
  - {name: intents-per-workload, on: intents, per: [workload], rate: 999999999/s, burst: 1000000}
concurrency:
  - {name: outstanding-per-workload, per: [workload], max: 1000000}
transaction: {steps: 100000, depth: 16, fan_out: 10000, server_steps: 10000}
life: {step_token: 60s, accepted: 15m, waiting: 15m, credential: 60s, intent: 24h}
count: 3
"""
SVID_LIFE_S = 6 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Which core runs what; None where the platform cannot say or there is only one. `note` tells why."""

    broker: int | None
    generator: int | None
    note: str = ""

    @staticmethod
    def here() -> Cores:
        """The first core for the broker, the second for the generator."""
        if not hasattr(os, "sched_setaffinity"):
            return Cores(
                broker=None, generator=None, note="no CPU affinity on this platform: cores are shared"
            )
        free = sorted(os.sched_getaffinity(0))
        if len(free) < 2:
            return Cores(
                broker=None, generator=None, note="one core: the generator takes from the broker's time"
            )
        return Cores(broker=free[0], generator=free[1])


class Domain:
    """A trust domain with development identities and issuer, and the files that a broker reads.

    name: only `stepwrit broker --dev` serves in the development domain itself.
    """

    def __init__(self, folder: Path, name: str = DEV_TRUST_DOMAIN) -> None:
        self.folder, self.name = folder, name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DevelopmentModeWarning)  # loopback, and gone in a minute
            self.issuer = DevIssuer()
        self.trust = DevTrustDomain(
            folder / "w", trust_domain=name, x509_life=SVID_LIFE_S, rotate_every=SVID_LIFE_S
        )

    def id(self, path: str) -> str:
        """The SPIFFE ID of a path."""
        return dev_id(path).replace(DEV_TRUST_DOMAIN, self.name)

    async def start(self) -> None:
        """Serve, and write the files."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DevelopmentModeWarning)
            await self.trust.start()
        await self.issuer.start()
        written = json.dumps(dev_registry(self.issuer.url, ENTRIES))
        registry = json.loads(written.replace(DEV_TRUST_DOMAIN, self.name))  # no YAML aliases
        (self.folder / "registry.yaml").write_text(
            yaml.safe_dump(registry, sort_keys=False), encoding="utf-8"
        )
        (self.folder / "limits.yaml").write_text(LIMITS, encoding="utf-8")
        policy = self.folder / "policy"
        policy.mkdir()
        for name, text in stance("approval").items():
            (policy / name).write_text(text, encoding="utf-8")

    async def stop(self) -> None:
        """End both."""
        await self.issuer.stop()
        await self.trust.stop()

    def settings(self, core: int | None) -> dict[str, Any]:
        """What a runner needs to know."""
        return {
            "folder": str(self.folder),
            "core": core,
            "trust_domain": self.name,
            "broker_id": self.id(BROKER),
            "socket": self.trust.socket_for(BROKER),
            "oidc": self.issuer.url,
        }


class RunnerFailedError(RuntimeError):
    """The process under test ended by itself; its last words are on stderr."""


class Runner:
    """The other side of `tests.bench.runner`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.url = ""
        self.ops = ""

    async def ask(self, what: str) -> dict[str, float]:
        """One line there, one line back."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())
        answer: dict[str, float] = await self._line()
        return answer

    async def _line(self) -> Any:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 60.0)
        if not line:
            raise RunnerFailedError("the process under test ended early; see above")
        return json.loads(line)

    async def ready(self) -> None:
        """Wait until it listens."""
        said = await self._line()
        self.url, self.ops = said["url"], said.get("ops", "")

    async def end(self) -> None:
        """Ask it to stop; insist after a while."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 20.0)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def running(name: str, given: dict[str, Any]) -> AsyncIterator[Runner]:
    """A runner with these settings, ended on leaving."""
    path = Path(given["folder"]) / f"{name}.json"
    path.write_text(json.dumps(given), encoding="utf-8")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.runner", str(path), stdin=pipe, stdout=pipe, cwd=REPO
    )
    runner = Runner(process)
    try:
        await runner.ready()
        yield runner
    finally:
        await runner.end()
