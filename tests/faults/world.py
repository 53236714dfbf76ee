"""Who is in a fault run, and the files that its brokers read.

Three SPIFFE workloads ask (an agent, its tool server, and the places of one bank), an operator brakes. The
limits are tight enough to be met by 64 callers on a small machine.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import yaml

from stepwrit_broker.dev.oidc import DevIssuer
from stepwrit_broker.dev.workload_api import DevTrustDomain
from stepwrit_broker.policy.files import stance

DOMAIN = "faults.test"
BASE = f"https://broker.{DOMAIN}:8443"  # what proofs name, whichever broker is asked
BANK = "https://bank.example"
CLIENT = "chat-app"
BROKER, AGENT, SERVER, OPERATOR = "stepwrit/broker", "agent/chat", "mcp-server/ledger", "operator/ops"
PLACES = ("resource/bank/1", "resource/bank/2", "resource/bank/3")
ROLES = (AGENT, SERVER, OPERATOR, *PLACES)
TIMES = {f"{server}/{tool}": 1 for server in ("ledger", "mail") for tool in ("transfer", "refund")}
SVID_LIFE_S = 6 * 3600.0
CREDENTIAL_S = 8
LIMITS = f"""\
version: 1
rates:
  - {{name: credentials, on: credentials, per: [workload], rate: 40/s, burst: 20}}
  - {{name: all, on: credentials, per: [], rate: 3000/min, burst: 25}}
  - {{name: steps, on: steps, per: [workload, tool], rate: 40/s, burst: 20}}
  - {{name: intents, on: intents, per: [workload], rate: 20/s, burst: 20}}
concurrency:
  - {{name: outstanding, per: [resource], max: 40}}
transaction: {{steps: 12, depth: 3, fan_out: 10, server_steps: 3}}
life: {{step_token: 60s, accepted: 60s, waiting: 60s, credential: {CREDENTIAL_S}s, intent: 1h}}
count: 4
"""


def spiffe(path: str) -> str:
    """The SPIFFE ID of a path."""
    return f"spiffe://{DOMAIN}/{path}"


def registry(issuer: str) -> dict[str, Any]:
    """Who is what."""
    lines = [{"at": BANK, "request": "POST /v1/transfers"}]
    tools = {
        name: {"impact": "medium", "plan": [dict(each) for each in lines]} for name in ("transfer", "refund")
    }
    entries: list[dict[str, Any]] = [
        {"id": spiffe(OPERATOR), "role": "operator", "name": "ops"},
        {"id": spiffe(AGENT), "role": "agent", "name": "chat",
         "may_start": {"tools": ["ledger/*"], "impact": "medium"},
         "clients": [{"issuer": issuer, "client_id": CLIENT}]},
        {"id": spiffe(SERVER), "role": "mcp-server", "name": "ledger", "url": "https://ledger.example/mcp",
         "tools": tools},
        {"id": spiffe("resource/bank/*"), "role": "resource", "name": "bank", "audience": BANK},
    ]  # fmt: skip
    return {"version": 1, "tenant": "default", "persons": [], "entries": entries, "count": len(entries)}


class World:
    """Identities, an OpenID provider and files; the brokers come on top."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # development identities warn; here they are the point
            self.issuer = DevIssuer()
        self.trust = DevTrustDomain(
            folder / "w", trust_domain=DOMAIN, x509_life=SVID_LIFE_S, rotate_every=SVID_LIFE_S
        )

    async def start(self) -> None:
        """Serve, and write what all brokers read."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            await self.trust.start()
        await self.issuer.start()
        written = yaml.safe_dump(registry(self.issuer.url), sort_keys=False)
        (self.folder / "registry.yaml").write_text(written)
        (self.folder / "limits.yaml").write_text(LIMITS)
        (self.folder / "policy").mkdir()
        for name, text in stance("approval").items():
            (self.folder / "policy" / name).write_text(text)

    async def stop(self) -> None:
        """End both."""
        await self.issuer.stop()
        await self.trust.stop()

    def socket(self, path: str) -> str:
        """The Workload API of one workload."""
        return self.trust.socket_for(path)

    def config(self, name: str, mtls: int, ops: int, more: str = "") -> Path:
        """One broker's broker.toml, in a folder of its own."""
        own = self.folder / name
        (own / "anchor").mkdir(parents=True, exist_ok=True)
        path = own / "broker.toml"
        path.write_text(
            f'trust_domain = "{DOMAIN}"\nissuer = "https://broker.{DOMAIN}:8444"\n'
            f'broker_id = "{spiffe(BROKER)}"\nspiffe_socket = "{self.socket(BROKER)}"\n'
            f'[listen]\nmtls = "127.0.0.1:{mtls}"\nmtls_url = "{BASE}"\ntls = ""\nops = "127.0.0.1:{ops}"\n'
            f'admin = "unix:{own}/admin.sock"\n'
            f'[store]\npath = "{own}/stepwrit.db"\nanchor = "{own}/anchor/a"\ndisk_reserve_bytes = 1048576\n'
            f'[ledger]\nkey_file = "{self.folder}/ledger.key"\norigin = "{DOMAIN}/log"\n'
            f"checkpoint_every_s = 0.5\n"
            f'[files]\nregistry = "{self.folder}/registry.yaml"\nlimits = "{self.folder}/limits.yaml"\n'
            f'policy = "{self.folder}/policy"\n'
            f'[[oidc]]\nissuer = "{self.issuer.url}"\nalgorithms = ["ES256"]\n{more}'
        )
        return path
