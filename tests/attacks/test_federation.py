"""Foreign trust domains: nobody is in until everything names them, and no foreign authority speaks for us.

Each test once with the partner's bundle from the Workload API, and once from its bundle endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Self

import httpx2
import pytest
import pytest_asyncio
from starlette.responses import PlainTextResponse
from tests.fakes.bundles import document, server_tls
from tests.fakes.guest import GUEST, GUESTS, JOTTER, PARTNER, Federated, Guest, issued
from tests.fakes.stage import (
    BANK,
    BODY,
    ENTRIES,
    URL,
    Opened,
    Reply,
    Stage,
    credential_form,
    new,
    refused,
    spiffe,
)

from stepwrit._transport import Attested, HttpTransport
from stepwrit.client import Broker, Parts
from stepwrit.dpop import make_proof, token_hash
from stepwrit.flow import Lost, Request
from stepwrit.guard import StepwritGuard
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.dev.ca import DevCa

CHAT, BROKER_ID = spiffe("agent/chat"), spiffe("stepwrit/broker")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["workload_api", "endpoint"])
async def running(request: pytest.FixtureRequest) -> AsyncGenerator[Federated]:
    async with Federated(request.param) as made:
        yield made


@pytest.fixture
def broker_stage(running: Federated) -> Stage:
    return running.stage


@pytest.fixture
def partner(running: Federated, stage: Stage) -> Federated:
    return running


async def begins(guest: Guest) -> Reply:
    return await guest.form(guest.started())


def fault(reply: Reply) -> str:
    assert (reply.status, reply.code) == (401, "unattested"), reply.raw
    return str(reply.refusal["rule"])


# --- named everywhere


async def test_a_guest_that_is_named_everywhere_acts_as_any_other(partner: Federated) -> None:
    guest, jotter = partner.guest(), partner.guest(JOTTER)
    root = (await begins(guest)).ok()
    opened = await guest.open(root["step"], "jotter/pay")
    (await jotter.accept(opened)).ok()
    assert (await jotter.credential(opened.step)).ok()["access_token"]
    assert (await partner.bearer().form(guest.started())).ok()["origin"] == "human"


async def test_every_single_name_that_is_missing_refuses(partner: Federated) -> None:
    guest = partner.guest()
    (await begins(guest)).ok()
    await partner.registry(foreign=(), entries=ENTRIES)
    assert fault(await begins(guest)) == "registry trust_domains"
    await partner.registry(foreign=(PARTNER,), entries=ENTRIES)
    assert fault(await begins(guest)) == "registry"
    await partner.registry(foreign=(PARTNER,), entries=[*ENTRIES, *GUESTS])
    await partner.policy()
    entry = refused(partner.stage, await begins(guest), "policy")
    assert entry.facts is not None
    assert str(entry.facts["rule"]).endswith(" foreign-workloads")
    await partner.policy("third.test")
    refused(partner.stage, await begins(guest), "policy")
    await partner.policy(PARTNER)
    (await begins(guest)).ok()


async def test_a_server_of_the_partners_performs_nothing_without_the_policys_word(partner: Federated) -> None:
    guest = partner.guest()
    root = (await begins(guest)).ok()
    opened, late = await guest.open(root["step"], "jotter/pay"), partner.guest(JOTTER)
    (await late.accept(opened)).ok()
    await partner.policy()
    refused(partner.stage, await guest.open_reply(root["step"], "jotter/pay"), "policy")
    refused(partner.stage, await late.credential(opened.step), "policy")
    await partner.policy(PARTNER)
    (await late.credential(opened.step)).ok()


async def test_a_frozen_trust_domain_is_refused_at_once(partner: Federated) -> None:
    guest = partner.guest()
    (await begins(guest)).ok()
    (await partner.stage.mark("freeze", f"trust_domain:{PARTNER}")).ok()
    refused(partner.stage, await begins(guest), "frozen")
    (await partner.stage.mark("unfreeze", f"trust_domain:{PARTNER}")).ok()
    (await begins(guest)).ok()


# --- a foreign authority that mints our IDs, at every face


async def test_the_broker_refuses_a_certificate_of_ours_by_the_partner(partner: Federated) -> None:
    (await begins(partner.guest())).ok()
    assert fault(await begins(partner.guest(CHAT))) == "x509:untrusted"
    assert fault(await begins(partner.guest(spiffe("operator/ops")))) == "x509:untrusted"
    third = partner.guest("spiffe://third.test/agent/x")
    assert fault(await begins(third)) == "x509:unknown_trust_domain"


async def test_the_broker_refuses_a_jwt_svid_of_ours_by_the_partner(partner: Federated) -> None:
    form = partner.guest().started()
    (await partner.bearer().form(form)).ok()
    forged = await partner.bearer(CHAT).form(form)
    assert (forged.status, forged.refusal["rule"]) == (401, "jwt:unknown_key")
    ours = await partner.bearer(GUEST, by=partner.stage.trust.ca).form(form)
    assert (ours.status, ours.refusal["rule"]) == (401, "jwt:unknown_key"), "nor do we speak for the partner"
    third = await partner.bearer("spiffe://third.test/agent/x").form(form)
    assert (third.status, third.refusal["rule"]) == (401, "jwt:unknown_trust_domain")


class Impostor:
    """A TLS server with a certificate of a test's making; what it is sent, if anything."""

    def __init__(self, ca: DevCa, spiffe_id: str) -> None:
        self._tls = server_tls(issued(ca, spiffe_id))
        self.got: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._hear, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read(4096)
        if said:
            self.got.append(said)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()


ASKS = Request(method="GET", path="/.well-known/oauth-authorization-server", headers={})


async def test_the_sdk_takes_nobody_for_its_broker_but_its_own(partner: Federated) -> None:
    stage = partner.stage
    identity = await stage.identity("agent/chat")
    assert (await (await stage.transport("agent/chat")).send(ASKS)).status == 200
    theirs = f"spiffe://{PARTNER}/stepwrit/broker"
    for shown, wanted in ((BROKER_ID, None), (BROKER_ID, BROKER_ID), (theirs, None), (theirs, BROKER_ID)):
        async with Impostor(partner.ca, shown) as impostor:
            transport = HttpTransport(impostor.url, identity, wanted)
            with pytest.raises(Lost):
                await transport.send(ASKS)
            await transport.close()
            assert impostor.got == [], "not a byte of a request"


async def test_the_sdk_goes_to_another_domains_broker_only_where_it_is_named(partner: Federated) -> None:
    if partner.source == "endpoint":
        return  # the SDK knows bundles of the Workload API alone
    identity = await partner.stage.identity("agent/chat")
    theirs = f"spiffe://{PARTNER}/stepwrit/broker"
    async with Impostor(partner.ca, theirs) as other:
        transport = HttpTransport(other.url, identity, theirs)
        assert (await transport.send(ASKS)).status == 200
        await transport.close()


async def guarded(partner: Federated, url: str, **options: Any) -> StepwritGuard:
    """The bank's guard, with the broker that it believes to be at `url`."""
    identity = await partner.stage.identity("resource/bank/1")
    transport = HttpTransport(url, identity)
    partner.at_end(transport.close)
    broker = Broker(transport, Attested(identity), Parts(base_url=url))
    return StepwritGuard(PlainTextResponse("paid"), audience=BANK, broker=broker, **options)


async def pays(guard: StepwritGuard, performer: Any, token: str) -> httpx2.Response:
    proof = make_proof(performer.key, "POST", URL, performer.stage.now(), new(), ath=token_hash(token))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=guard), base_url=BANK) as http:
        headers = {"authorization": f"DPoP {token}", "dpop": proof}
        return await http.post(URL, content=BODY, headers=headers)


async def test_the_guard_believes_no_broker_that_the_partner_minted(partner: Federated) -> None:
    stage = partner.stage
    held = await stage.held()
    async with Impostor(partner.ca, BROKER_ID) as impostor:
        answer = await pays(await guarded(partner, impostor.url), held.ledger, held.token)
        assert (answer.status_code, answer.json()["refusal"]["code"]) == (503, "unavailable")
        assert impostor.got == []
    guard = await guarded(partner, stage.url)
    assert (await pays(guard, held.ledger, held.token)).text == "paid"


async def jotted(partner: Federated) -> tuple[Guest, str]:
    """A credential in the hands of the partner's server."""
    guest, jotter = partner.guest(), partner.guest(JOTTER)
    opened: Opened = await guest.open((await begins(guest)).ok()["step"], "jotter/pay")
    (await jotter.accept(opened)).ok()
    return jotter, (await jotter.form(credential_form(opened.step))).ok()["access_token"]


async def test_the_guard_refuses_the_partners_performers_until_the_resource_names_them(
    partner: Federated,
) -> None:
    stage = partner.stage
    held = await stage.held()
    guard = await guarded(partner, stage.url)
    assert (await pays(guard, held.ledger, held.token)).text == "paid"
    jotter, token = await jotted(partner)
    no = await pays(guard, jotter, token)
    assert (no.status_code, no.json()["refusal"]["code"]) == (403, "wrong_workload")
    found = stage.on_record(no.headers["stepwrit-ref"])
    assert [entry.kind for entry in found] == ["refused"]
    naming = await guarded(partner, stage.url, trust_domains=[PARTNER])
    assert (await pays(naming, jotter, token)).text == "paid", "nothing was spent by the refusal"


# --- the bundle


async def test_a_bundle_that_is_withdrawn_at_its_source_refuses_on_a_kept_connection(
    partner: Federated,
) -> None:
    guest, bearer = partner.guest(), partner.bearer()
    bearer = bearer.holding(bearer.token())
    (await begins(guest)).ok()
    (await bearer.form(guest.started())).ok()
    await partner.withdraw()
    assert fault(await begins(guest)) == "x509:empty_bundle"
    told = await bearer.form(guest.started())
    assert (told.status, told.refusal["rule"]) == (401, "jwt:empty_bundle")
    partner.ca.rotate(keep_previous=False)
    await partner.publish()
    with pytest.raises((httpx2.TransportError, OSError)):
        await begins(guest)  # the old authority does not return
    (await begins(partner.guest())).ok()


async def test_an_older_bundle_changes_nothing(partner: Federated) -> None:
    if partner.source != "endpoint":
        return
    stolen = DevCa(PARTNER)
    (await begins(partner.guest())).ok()
    for sequence, why in ((partner.sequence - 1, "sequence_back"), (partner.sequence, "sequence_reused")):
        partner.endpoint.body = document(stolen, sequence=sequence)
        assert await partner.poll() == why
        with pytest.raises((httpx2.TransportError, OSError)):
            await begins(partner.guest(by=stolen))
        (await begins(partner.guest())).ok()
    await partner.stage.restart()
    assert await partner.poll() == "sequence_reused"
    with pytest.raises((httpx2.TransportError, OSError)):
        await begins(partner.guest(by=stolen))
    (await begins(partner.guest())).ok()
    await partner.publish()
    kinds = [each.kind for each in partner.stage.broker.ledger.tail(0, 10_000, ["federation.refused"], None)]
    assert len(kinds) == 3


async def test_what_the_endpoint_no_longer_confirms_goes_stale(partner: Federated) -> None:
    if partner.source != "endpoint":
        return
    stage, guest, bearer = partner.stage, partner.guest(), partner.bearer()
    (await begins(guest)).ok()
    partner.endpoint.status = 503
    (feed,) = stage.broker.federating.federation.feeds
    assert feed.held is not None
    feed._held = _older(feed.held, feed.partner.max_age_s + 1)
    assert fault(await begins(guest)) == "x509:stale_bundle"
    told = await bearer.form(guest.started())
    assert told.refusal["rule"] == "jwt:stale_bundle"
    (await stage.root())
    partner.endpoint.status = 200
    assert await partner.poll() == "ok"
    (await begins(guest)).ok()


def _older(held: Any, seconds: float) -> Any:
    from dataclasses import replace

    return replace(held, confirmed_at=held.confirmed_at - seconds)


async def test_a_domain_with_two_sources_has_none(partner: Federated) -> None:
    if partner.source != "endpoint":
        return
    stage, guest = partner.stage, partner.guest()
    (await begins(guest)).ok()
    before = stage.broker.identity.generation
    stage.trust.trust(PARTNER, partner.ca.authorities, partner.ca.jwks())
    await partner.until(lambda: stage.broker.identity.generation > before)
    assert fault(await begins(guest)) == "x509:two_bundle_sources"
    (await stage.root())
    await stage.stop()
    with pytest.raises(Unavailable, match="each trust domain has one source"):
        await stage.start()
    stage.trust.forget(PARTNER)
    await stage.start()
    (await begins(guest)).ok()


async def test_how_it_is_stands_in_health_and_metrics(partner: Federated) -> None:
    if partner.source != "endpoint":
        return
    broker = partner.stage.broker
    await broker.federating.gauge()
    async with httpx2.AsyncClient(base_url=broker.ops.url) as http:
        told = (await http.get("/healthz", params={"verbose": "true"})).json()["federation"][PARTNER]
        metrics = (await http.get("/metrics")).text
    assert (told["state"], told["why"], told["sequence"]) == ("ok", "ok", str(partner.sequence))
    assert f'stepwrit_federation_bundle_serves{{trust_domain="{PARTNER}"}} 1.0' in metrics
    assert f'stepwrit_federation_polls_total{{outcome="ok",trust_domain="{PARTNER}"}}' in metrics
