"""A development broker: its own trust domain, Workload API and OIDC issuer, all in one process. It shouts.

State is in one folder; `dev.json` there tells tools where everything is. Loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse

from stepwrit_broker.attest.person import Issuer
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.workload import DEV_TRUST_DOMAIN
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.entries import dev_id as dev_id  # noqa: PLC0414  where tests look for it
from stepwrit_broker.dev.entries import dev_registry, registered, with_tools
from stepwrit_broker.dev.identities import Identities
from stepwrit_broker.dev.oidc import CLIENT_ID, DevIssuer
from stepwrit_broker.dev.oidc_code import pages_client
from stepwrit_broker.dev.ports import free_port, is_free
from stepwrit_broker.dev.tlsfiles import write_tls_files
from stepwrit_broker.dev.workload_api import DevTrustDomain
from stepwrit_broker.policy.files import stance
from stepwrit_broker.registry.files import load_registry
from stepwrit_broker.wiring.broker import Broker
from stepwrit_broker.wiring.settings import Address, BrokerSettings

BROKER_PATH = "stepwrit/broker"
LIMITS = """\
version: 1
rates:
  - {name: per-workload, on: credentials, per: [workload], rate: 600/min, burst: 200}
  - {name: steps-per-workload, on: steps, per: [workload], rate: 600/min, burst: 200}
  - {name: intents-per-workload, on: intents, per: [workload], rate: 120/min, burst: 60}
concurrency:
  - {name: outstanding-per-workload, per: [workload], max: 100}
transaction: {steps: 200, depth: 8, fan_out: 50, server_steps: 20}
life: {step_token: 60s, accepted: 15m, waiting: 15m, credential: 60s, intent: 1h}
approvals: {per_requester: 100, per_initiator: 100, cooldown: 1s}  # whoever tries things out asks often
count: 3
"""
DEV_LINES = (
    "DEVELOPMENT BROKER: anyone on this machine can be any person and any workload.",
    f"Trust domain {DEV_TRUST_DOMAIN}. Never use it for anything that matters.",
)


def default_folder() -> Path:
    """Where `stepwrit broker --dev` keeps its state."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "stepwrit-dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class DevOptions:
    """What differs between `stepwrit broker --dev`, the demo and the tests. Seconds, and a policy stance.

    identities: a trust domain that runs already; None makes one.
    """

    stance: str = "approval"
    limits: str = LIMITS
    entries: tuple[Mapping[str, Any], ...] = ()
    svid_life_s: float = 3600.0
    rotate_every_s: float = 600.0
    identities: Identities | None = None


class DevBroker:
    """`async with DevBroker(folder) as dev:`; `dev.broker` is a real broker on a development identity."""

    def __init__(self, folder: Path, options: DevOptions | None = None) -> None:
        self.folder, self.options = folder, options or DevOptions()
        self._stack = AsyncExitStack()
        self.trust: Identities
        self.issuer: DevIssuer
        self.broker: Broker

    async def __aenter__(self) -> Self:
        """Trust domain, issuer, files, broker; then the state file."""
        warnings.warn("development broker: no real identities", DevelopmentModeWarning, stacklevel=2)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all of it."""
        (self.folder / "dev.json").unlink(missing_ok=True)
        await self._stack.aclose()

    async def _start(self) -> None:
        options = self.options
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DevelopmentModeWarning)  # said once, above
            self.trust = options.identities or await self._own_domain()
            self.issuer = DevIssuer(self._port("oidc"))
        self.issuer.extra = {"/identity": self._identity, "/register": self._register}
        await self.issuer.start()
        self._stack.push_async_callback(self.issuer.stop)
        self._write_files()
        await self._serve()

    async def _serve(self) -> None:
        self.broker = await self._stack.enter_async_context(Broker(self._settings()))
        self.broker.live.now_in_force()  # refuses to go on without registry, limits and policy
        self._write_state()

    async def restart(self) -> None:
        """Stop the broker, and start one on the same files; trust domain and issuer stay."""
        await self.broker.__aexit__(None, None, None)
        await self._serve()

    async def _own_domain(self) -> DevTrustDomain:
        life, every = self.options.svid_life_s, self.options.rotate_every_s
        made = DevTrustDomain(self.folder / "wl", x509_life=life, rotate_every=every)
        await made.start()
        self._stack.push_async_callback(made.stop)
        return made

    def _write_files(self) -> None:
        given = [dict(each) for each in self.options.entries]
        ids = {each["id"] for each in given}
        self._entries = given + [each for each in self._registered() if each["id"] not in ids]
        made = dev_registry(self.issuer.url, self._entries)
        self._write_registry(json.loads(json.dumps(made)))  # no YAML aliases
        (self.folder / "limits.yaml").write_text(self.options.limits, encoding="utf-8")
        policy = self.folder / "policy"
        policy.mkdir(exist_ok=True)
        for old in policy.glob("*.cedar"):
            old.unlink()
        for name, text in stance(self.options.stance).items():
            (policy / name).write_text(text, encoding="utf-8")

    def _write_registry(self, registry: dict[str, Any]) -> None:
        count = registry.pop("count")  # the last line of the file
        draft = self.folder / ".registry.yaml.new"
        draft.write_text(yaml.safe_dump({**registry, "count": count}, sort_keys=False), encoding="utf-8")
        draft.replace(self.folder / "registry.yaml")

    def _settings(self) -> BrokerSettings:
        cert, key = write_tls_files(self.folder)
        tls_port = self._port("tls")
        issuer = f"https://localhost:{tls_port}"  # a name: a passkey's RP ID is a domain, not an address
        me = self.trust.environment(BROKER_PATH)
        return BrokerSettings(
            trust_domain=DEV_TRUST_DOMAIN,
            issuer=issuer,
            broker_id=dev_id(BROKER_PATH),
            spiffe_socket=me["SPIFFE_ENDPOINT_SOCKET"],
            spiffe_hint=me.get("STEPWRIT_SPIFFE_HINT"),
            store_path=self.folder / "store" / "stepwrit.db",
            anchor_path=self.folder / "anchor" / "anchor.json",
            ledger_key=self.folder / "ledger.key",
            ledger_origin=f"{DEV_TRUST_DOMAIN}/log",
            registry=self.folder / "registry.yaml",
            limits=self.folder / "limits.yaml",
            policy=self.folder / "policy",
            mtls=Address(host="127.0.0.1", port=self._port("mtls")),
            tls=Address(host="127.0.0.1", port=tls_port),
            tls_cert=cert,
            tls_key=key,
            ops=Address(host="127.0.0.1", port=0),
            admin=self.folder / "admin.sock",
            oidc=(Issuer(issuer=self.issuer.url, algorithms=("ES256",)),),
            sign_in=pages_client(self.issuer.code, issuer),
        )

    def _port(self, name: str) -> int:
        """The port of the last run where it is still free: what `dev run` started finds the broker again."""
        file = self.folder / "ports.json"
        try:
            kept: dict[str, int] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        if not is_free(kept.get(name, 0)):
            kept[name] = free_port()
            file.write_text(json.dumps(kept), encoding="utf-8")
        return kept[name]

    def _write_state(self) -> None:
        state = {
            "broker": self.broker.mtls_url,
            "broker_id": dev_id(BROKER_PATH),
            "admin": str(self.folder / "admin.sock"),
            "ops": self.broker.ops.url,
            "issuer": self.broker.settings.issuer,
            "ca": str(self.folder / "tls.crt"),
            "oidc": self.issuer.url,
            "client_id": CLIENT_ID,
            "trust_domain": DEV_TRUST_DOMAIN,
            "sockets": str(self.folder / "wl"),
            "pid": os.getpid(),
        }
        (self.folder / "dev.json").write_text(json.dumps(state, indent=2), encoding="utf-8")

    def environment(self, path: str) -> dict[str, str]:
        """What a process needs to be this development identity."""
        return {
            **self.trust.environment(path),
            "STEPWRIT_BROKER": self.broker.mtls_url,
            "STEPWRIT_BROKER_ID": dev_id(BROKER_PATH),
        }

    async def _identity(self, request: Request) -> JSONResponse:
        path = str((await request.json()).get("path", ""))
        try:
            socket = self.trust.environment(path)["SPIFFE_ENDPOINT_SOCKET"]
            return JSONResponse({"socket": socket, "id": dev_id(path)})
        except ValueError as bad:
            return JSONResponse({"error": str(bad)}, status_code=400)

    async def _register(self, request: Request) -> JSONResponse:
        """Add or replace a development MCP server; a tool without a plan is its own resource."""
        asked = await request.json()
        try:
            await self.register(str(asked["name"]), str(asked["url"]), list(asked["tools"]))
        except Problem as problem:
            return JSONResponse({"error": problem.reason}, status_code=400)
        return JSONResponse({"registered": asked["name"]})

    async def register(self, name: str, url: str, tools: list[dict[str, Any]]) -> None:
        """Put an mcp-server's tools into the registry in force; all else in it stays. Raises Malformed."""
        now = await self._in_force()
        entries = with_tools(registered(now), name, url, tools)
        text = json.dumps({**now, **dev_registry(self.issuer.url, entries, now["persons"])})
        load_registry(text, name="registry")
        self._entries = entries
        (self.folder / "registered.json").write_text(json.dumps(self._entries), encoding="utf-8")
        self._write_registry(json.loads(text))
        await self.broker.files.apply("registry")

    async def _in_force(self) -> dict[str, Any]:
        """The registry as it is now, what an operator applied included."""
        stored = await self.broker.store.version("registry")
        if stored is None:
            raise RuntimeError("a broker that runs has a registry in force")
        registry: dict[str, Any] = json.loads(stored.doc)
        del registry["count"]  # which belongs at the end
        return registry

    def _registered(self) -> list[dict[str, Any]]:
        """What was registered before this start."""
        try:
            kept: list[dict[str, Any]] = json.loads(
                (self.folder / "registered.json").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return []
        return kept


async def _serve(folder: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    async with DevBroker(folder) as dev:
        for line in (
            *DEV_LINES,
            f"broker {dev.broker.mtls_url}",
            f"pages  {dev.broker.settings.issuer}/approvals",
            f"state  {folder / 'dev.json'}",
            "Ctrl-C ends it.",
        ):
            print(line, file=sys.stderr)  # noqa: T201  the terminal is this command's face
        await stop.wait()


def run_dev(folder: Path | None) -> None:
    """Run until interrupted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DevelopmentModeWarning)  # the lines above say it
        asyncio.run(_serve(folder or default_folder()))
