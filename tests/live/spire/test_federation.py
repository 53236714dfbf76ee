"""Two real SPIRE trust domains: by either profile of their bundle endpoints, and by SPIRE's own federation.

A partner's agent gets in, its authority is replaced, the relation ends; how long each took is printed.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.fakes.bearer import Bearer
from tests.fakes.pki import FakeCa, write_pem
from tests.fakes.stage import ENTRIES, ISSUER, Actor, Reply, Stage, spiffe

from stepwrit._transport import HttpTransport
from stepwrit.flow import Lost, Request
from stepwrit.identity import WorkloadIdentity
from stepwrit.wire import CeilingSpec
from stepwrit_broker.attest.federation.fetch import fetch
from stepwrit_broker.attest.federation.partner import BundleNotTaken, Partner
from stepwrit_broker.dev.spire import BundleEndpoint, ServerOptions, SpireDomain

HOME, PARTNER = "home.test", "partner.test"
GUEST = f"spiffe://{PARTNER}/agent/guest"
ENTRY: dict[str, Any] = {
    "id": GUEST,
    "role": "agent",
    "name": "guest",
    "clients": ["guest-app"],
    "attest": ["x509", "jwt"],
    "may_start": {"tools": ["ledger/*"], "impact": "low"},
}
CEILING = CeilingSpec(tools=("ledger/*",), impact="low")
REFRESH_S = 5
WITHIN_S = 60.0
Tell = Callable[[str, float], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Print a time, whatever pytest captures."""

    def say(what: str, seconds: float) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {what}: {seconds:.2f} s\n")

    return say


@dataclass(frozen=True, kw_only=True)
class LiveGuest(Actor):
    """The partner's agent, with its own SVID from its own SPIRE, over the SDK's transport."""

    way: HttpTransport = field(repr=False)

    @property
    def id(self) -> str:
        return self.path

    async def send(self, method: str, path: str, body: bytes, headers: Any) -> Reply:
        answer = await self.way.send(Request(method=method, path=path, headers=dict(headers), body=body))
        kind = answer.headers.get("content-type", "")
        read = json.loads(answer.body) if "json" in kind else {}
        return Reply(status=answer.status, body=read, raw=answer.body, headers=answer.headers)

    def form_of_intent(self) -> dict[str, str]:
        return self.intent_form(self.stage.issuer.mint("alice", client_id="guest-app"), ceiling=CEILING)

    async def begins(self) -> Reply:
        return await self.form(self.form_of_intent())


@dataclass(frozen=True, kw_only=True)
class LiveBearer(Bearer):
    @property
    def id(self) -> str:
        return self.path


class Two:
    """Home and partner, both on SPIRE, each following the other's bundle; the guest; the broker at home."""

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        self._stack, self.folder = stack, folder
        self.home = SpireDomain(HOME, server=ServerOptions(bundle_endpoint=_spiffe()))
        self.partner: SpireDomain
        self.stage: Stage
        self.guest: LiveGuest
        self.identity: WorkloadIdentity

    async def start(self, endpoint: BundleEndpoint, partner_of: Callable[[Two], Awaitable[Any]]) -> None:
        self.partner = SpireDomain(PARTNER, server=ServerOptions(bundle_endpoint=endpoint))
        for domain in (self.home, self.partner):
            await self._stack.enter_async_context(domain)
        follow = self.home.server.partnership(await self.home.server.api.bundle())
        await self.partner.server.api.federate(follow)
        await self.partner.enrol("agent/guest", federates_with=(HOME,))
        fetched = await partner_of(self)
        if fetched is None:
            theirs = self.partner.server.partnership(await self.partner.server.api.bundle())
            await self.home.server.api.federate(theirs)
        federates = () if fetched else (PARTNER,)
        await self.home.enrol("stepwrit/broker", federates_with=federates)
        await self._broker(() if fetched is None else (fetched,))
        await self._guest()

    async def _broker(self, partners: tuple[Partner, ...]) -> None:
        self.stage = Stage(
            domain=HOME,
            identities=self.home,
            entries=[*ENTRIES, ENTRY],
            foreign=(PARTNER,),
            policy="low-risk",
            partners=partners,
        )
        await self._stack.enter_async_context(self.stage)
        path = self.stage.folder / "policy" / "50-federation.cedar"
        path.write_text(path.read_text().replace("[context.home].", f'[context.home, "{PARTNER}"].'))
        await self.stage.broker.files.apply("policy")

    async def _guest(self) -> None:
        self.identity = WorkloadIdentity(self.partner.socket, hint="agent/guest")
        await self.identity.start()
        self._stack.push_async_callback(self.identity.close)
        await self.identity.wait_ready(30)
        way = HttpTransport(self.stage.url, self.identity, spiffe("stepwrit/broker", HOME))
        self._stack.push_async_callback(way.close)
        self.guest = LiveGuest(stage=self.stage, path=GUEST, way=way)

    async def admitted(self) -> float:
        """Seconds until the guest's certificate gets an intent."""
        return await _until(lambda: _says(self.guest.begins, "ok"))

    async def bearer(self) -> Reply:
        """The guest's JWT-SVID at the other listener."""
        svid = await asyncio.to_thread(self.identity.jwt_svid, ISSUER)
        return await LiveBearer(stage=self.stage, path=GUEST, svid=svid).form(self.guest.form_of_intent())

    async def registry(self, *foreign: str) -> None:
        self.stage.foreign = foreign
        self.stage.write_registry(ENTRIES if not foreign else [*ENTRIES, ENTRY])
        await self.stage.broker.files.apply("registry")

    def roots(self) -> tuple[bytes, ...]:
        """The partner's X.509 authorities, as the broker believes them now."""
        trusted = self.stage.broker.bundles.current(self.stage.now())
        return tuple(trusted.by_domain.get(PARTNER, ()))


async def _says(ask: Callable[[], Awaitable[Reply]], what: str) -> bool:
    try:
        reply = await ask()
    except Lost:
        return what == "lost"
    said = "ok" if reply.status in (200, 201) else str(reply.refusal["rule"])
    return said == what


async def _until(holds: Callable[[], Awaitable[bool]]) -> float:
    began = time.monotonic()
    async with asyncio.timeout(WITHIN_S):
        while not await holds():
            await asyncio.sleep(0.05)
    return time.monotonic() - began


def _spiffe() -> BundleEndpoint:
    return BundleEndpoint(profile="https_spiffe", refresh_hint_s=REFRESH_S)


async def by_spiffe(two: Two) -> Partner:
    server = two.partner.server
    path = two.folder / "first.json"
    path.write_text(await server.api.bundle())
    return Partner(
        trust_domain=PARTNER,
        url=server.bundle_url,
        profile="https_spiffe",
        endpoint_id=server.spiffe_id,
        bootstrap=path,
    )


async def by_web(two: Two) -> Partner:
    return Partner(
        trust_domain=PARTNER,
        url=two.partner.server.bundle_url,
        profile="https_web",
        ca_file=two.folder / "ca.pem",
    )


async def by_spire(two: Two) -> None:
    """Nothing for the broker to fetch: the Workload API hands the partner's bundles out."""


def web_endpoint(folder: Path) -> BundleEndpoint:
    """A self-made CA, and the endpoint's certificate of it."""
    ca = FakeCa("web", now=time.time())
    (folder / "ca.pem").write_bytes(x509.load_der_x509_certificate(ca.der).public_bytes(Encoding.PEM))
    cert, key = write_pem(ca.issue("spiffe://web/x", dns=("localhost",)), folder)
    return BundleEndpoint(profile="https_web", cert=cert, key=key, refresh_hint_s=REFRESH_S)


WAYS = {"https_spiffe": by_spiffe, "https_web": by_web, "workload_api": by_spire}


@pytest.fixture(params=WAYS)
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        made = Two(stack, tmp_path)
        endpoint = web_endpoint(tmp_path) if request.param == "https_web" else _spiffe()
        await made.start(endpoint, WAYS[request.param])
        yield made


async def test_a_partner_gets_in_rotates_and_is_let_go(
    two: Two, tell: Tell, request: pytest.FixtureRequest
) -> None:
    way = request.node.callspec.params["two"]
    tell(f"{way}: the first bundle counts after", await two.admitted())
    assert (await two.bearer()).ok()["origin"] == "human"

    before, api = two.roots(), two.partner.server.api
    number = await api.prepare_authority("x509")
    seconds = await _until(lambda: _true(len(two.roots()) > len(before)))
    tell(f"{way}: an authority that was prepared is believed after", seconds)
    await api.activate_authority("x509", number)
    serial = two.identity.generation
    old = (await api.authorities("x509"))["old"]["authority_id"]
    await api.taint_authority("x509", old)
    await _until(lambda: _true(two.identity.generation > serial))
    tell(f"{way}: a certificate of the new authority is taken after", await two.admitted())
    await api.revoke_authority("x509", old)
    seconds = await _until(lambda: _true(not set(before) & set(two.roots())))
    tell(f"{way}: an authority that was revoked is gone after", seconds)
    (await two.guest.begins()).ok()

    began = time.monotonic()
    await two.registry()
    reply = await two.guest.begins()
    assert (reply.status, reply.refusal["rule"]) == (401, "registry trust_domains")
    tell(f"{way}: out of trust_domains, refused after", time.monotonic() - began)
    assert (await two.bearer()).refusal["rule"] == "registry trust_domains"
    await two.registry(PARTNER)
    (await two.guest.begins()).ok()


async def _true(value: bool) -> bool:
    return value


@pytest.mark.parametrize("two", ["workload_api"], indirect=True)
async def test_spire_withdraws_a_partner(two: Two, tell: Tell) -> None:
    await two.admitted()
    await two.home.server.api.end_federation(PARTNER)
    await two.home.server.api.delete_bundle(PARTNER)
    seconds = await _until(lambda: _says(two.guest.begins, "x509:unknown_trust_domain"))
    tell("workload_api: a bundle that SPIRE's operator deleted is gone after", seconds)


@pytest.mark.parametrize("two", ["https_spiffe"], indirect=True)
async def test_an_endpoint_that_is_down_changes_nothing_and_comes_back(two: Two, tell: Tell) -> None:
    await two.admitted()
    (feed,) = two.stage.broker.federating.federation.feeds
    await two.partner.server.kill()
    await feed.poll()
    assert feed.health(two.stage.now()).why == "unreachable"
    (await two.guest.begins()).ok()
    await two.partner.server.start()
    seconds = await _until(lambda: _true(feed.health(two.stage.now()).state == "ok"))
    tell("https_spiffe: after its restart the endpoint is well again after", seconds)


@pytest.mark.parametrize("two", ["https_spiffe"], indirect=True)
async def test_only_the_partners_server_is_its_endpoint(two: Two) -> None:
    partner, roots = await by_spiffe(two), two.roots
    await two.admitted()
    assert await fetch(partner, roots(), time.time)
    for wrong in (f"spiffe://{PARTNER}/agent/guest", f"spiffe://{HOME}/spire/server"):
        with pytest.raises(BundleNotTaken, match="tls"):
            await fetch(replace(partner, endpoint_id=wrong), roots(), time.time)
    mirror = replace(partner, url=two.home.server.bundle_url)
    with pytest.raises(BundleNotTaken, match="tls"):
        await fetch(mirror, roots(), time.time)


@pytest.mark.parametrize("two", ["https_web"], indirect=True)
async def test_a_server_that_was_restored_from_a_backup_goes_backwards_and_is_refused(two: Two) -> None:
    await two.admitted()
    server, (feed,) = two.partner.server, two.stage.broker.federating.federation.feeds
    await server.stop()
    shutil.copytree(server.folder / "data", two.folder / "backup")
    await server.start()
    before = two.roots()
    await server.api.prepare_authority("x509")
    await _until(lambda: _true(len(two.roots()) > len(before)))
    held = two.roots()
    await server.stop()
    shutil.rmtree(server.folder / "data")
    shutil.copytree(two.folder / "backup", server.folder / "data")
    await server.start()
    await _until(lambda: _true(feed.health(two.stage.now()).why == "sequence_back"))
    assert two.roots() == held
    (await two.guest.begins()).ok()
    await two.stage.restart()
    assert two.roots() == held, "a restart of the broker does not forget"
