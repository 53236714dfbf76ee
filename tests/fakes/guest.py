"""Workloads of a partner's trust domain on the stage: a partner, its bundle's way to us, its callers.

async with Federated("endpoint") as partner:
    guest = partner.guest(GUEST)
    await guest.form(...)
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from tests.fakes.bearer import Bearer
from tests.fakes.bundles import Endpoint, document, server_tls
from tests.fakes.pki import FakeCa, Issued, raw_client
from tests.fakes.stage import BANK, ENTRIES, ISSUER, Actor, Reply, Stage, new

from stepwrit.wire import CeilingSpec
from stepwrit_broker.attest.federation.partner import Partner
from stepwrit_broker.dev.ca import DevCa

PARTNER = "partner.test"
GUEST, JOTTER = f"spiffe://{PARTNER}/agent/guest", f"spiffe://{PARTNER}/mcp/jotter"
GUESTS: list[dict[str, Any]] = [
    {"id": GUEST, "role": "agent", "name": "guest", "clients": ["guest-app"], "attest": ["x509", "jwt"],
     "may_start": {"tools": ["ledger/*", "jotter/*"], "impact": "high"}},
    {"id": JOTTER, "role": "mcp-server", "name": "jotter",
     "tools": {"pay": {"impact": "medium", "plan": [{"at": BANK, "request": "POST /v1/transfers"}]}}},
]  # fmt: skip
CEILING = CeilingSpec(tools=("ledger/*", "jotter/*"), impact="high")


def issued(ca: DevCa, spiffe_id: str) -> Issued:
    """A certificate of a development authority for whatever ID, its own or not."""
    made = ca.x509_svid(spiffe_id)
    return Issued(leaf=made.certificate, key=load_der_private_key(made.key, None))


@dataclass(frozen=True, kw_only=True)
class Guest(Actor):
    """A caller with a certificate that a test made, on one connection for as long as it lives."""

    shown: Issued = field(repr=False)
    http: httpx2.AsyncClient = field(repr=False)

    @property
    def id(self) -> str:
        return self.path

    async def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        answer = await self.http.request(method, self.stage.url + path, content=body, headers=dict(headers))
        kind = answer.headers.get("content-type", "")
        read = json.loads(answer.content) if "json" in kind else {}
        return Reply(status=answer.status_code, body=read, raw=answer.content, headers=answer.headers)

    def started(self) -> dict[str, str]:
        """The form of an intent of this guest's."""
        return self.intent_form(self.stage.issuer.mint("alice", client_id="guest-app"), ceiling=CEILING)


@dataclass(frozen=True, kw_only=True)
class GuestBearer(Bearer):
    """A caller with a JWT-SVID that this authority signed."""

    ca: DevCa = field(repr=False)

    @property
    def id(self) -> str:
        return self.path

    def token(self, **claims: Any) -> str:
        return self.ca.jwt_svid(self.id, [ISSUER], jti=new(), **claims)


class Federated:
    """A stage and a partner whose bundle comes by `workload_api` or by `endpoint`; named everywhere."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.ca = DevCa(PARTNER)
        self.sequence = 10
        self.stage: Stage
        self.endpoint: Endpoint
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        web = FakeCa("web", now=time.time())
        folder = Path(self._stack.enter_context(TemporaryDirectory()))
        (folder / "ca.pem").write_bytes(x509.load_der_x509_certificate(web.der).public_bytes(Encoding.PEM))
        shown = server_tls(web.issue("spiffe://web/x", dns=("localhost",)))
        self.endpoint = await self._stack.enter_async_context(Endpoint(shown))
        by_endpoint = Partner(
            trust_domain=PARTNER, url=self.endpoint.url, profile="https_web", ca_file=folder / "ca.pem"
        )
        self.stage = Stage(
            entries=[*ENTRIES, *GUESTS],
            policy="low-risk",
            foreign=(PARTNER,),
            partners=(by_endpoint,) if self.source == "endpoint" else (),
        )
        await self.publish()
        await self._stack.enter_async_context(self.stage)
        await self.policy(PARTNER)
        await self.publish()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def publish(self, *authorities: DevCa) -> None:
        """The partner's bundle as it is now, or of these authorities; in force when this returns."""
        self.sequence += 1
        self.endpoint.body = document(*(authorities or (self.ca,)), sequence=self.sequence)
        if not hasattr(self.stage, "broker"):
            return
        if self.source == "endpoint":
            await self.poll()
            return
        before = self.stage.broker.identity.generation, self._jwt().generation
        self.stage.trust.trust(PARTNER, self.ca.authorities, self.ca.jwks())
        await self.until(
            lambda: self.stage.broker.identity.generation > before[0] and self._jwt().generation > before[1]
        )

    async def withdraw(self) -> None:
        """No bundle of the partner's any more, at the source."""
        self.ca.withdraw()
        await self.publish()

    async def poll(self) -> str:
        """One poll of the endpoint, now; its outcome."""
        (feed,) = self.stage.broker.federating.federation.feeds
        await feed.poll()
        return feed.health(self.stage.now()).why

    async def policy(self, *domains: str) -> None:
        """The shipped policy, with these domains named."""
        path = self.stage.folder / "policy" / "50-federation.cedar"
        named = "".join(f', "{domain}"' for domain in domains)
        text = (Path(__file__).parents[2] / "deploy/policies/low-risk/50-federation.cedar").read_text()
        path.write_text(text.replace("[context.home].", f"[context.home{named}]."))
        await self.stage.broker.files.apply("policy")

    async def registry(self, *, foreign: tuple[str, ...], entries: list[dict[str, Any]]) -> None:
        """Another registry."""
        self.stage.foreign = foreign
        self.stage.write_registry(entries)
        await self.stage.broker.files.apply("registry")

    def guest(self, spiffe_id: str = GUEST, *, by: DevCa | None = None) -> Guest:
        """A caller with this ID, whose certificate the partner (or `by`) signed."""
        shown = issued(by or self.ca, spiffe_id)
        http = httpx2.AsyncClient(verify=raw_client(shown), trust_env=False)
        self._stack.push_async_callback(http.aclose)
        return Guest(stage=self.stage, path=spiffe_id, shown=shown, http=http)

    def bearer(self, spiffe_id: str = GUEST, *, by: DevCa | None = None) -> GuestBearer:
        """The same by a JWT-SVID."""
        return GuestBearer(stage=self.stage, path=spiffe_id, ca=by or self.ca)

    def at_end(self, deed: Callable[[], Awaitable[None]]) -> None:
        """Do this before the stage goes."""
        self._stack.push_async_callback(deed)

    def _jwt(self) -> Any:
        streams: Any = self.stage.broker._streams
        return streams["jwt_bundles"].current()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what other threads bring about."""
        for _ in range(1000):
            if holds():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it did not come about")
