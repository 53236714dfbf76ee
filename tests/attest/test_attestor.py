"""A TLS peer becomes a workload, or a typed refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.pki import NOW, FakeCa, FakeIdentity, Issued, identity

from stepwrit.x509svid import TlsPeer
from stepwrit_broker.attest import x509
from stepwrit_broker.attest.bundles import BundleSource
from stepwrit_broker.attest.x509 import X509Attestor
from stepwrit_broker.core.errors import Unavailable, Unproven

AGENT = "spiffe://a.test/agent"


class World:
    def __init__(self, refuse: frozenset[str] = frozenset()) -> None:
        self.ca, self.partner = FakeCa("a.test"), FakeCa("b.test")
        self.own = self.ca.issue("spiffe://a.test/broker", ends=86_000)
        self.identity: FakeIdentity = identity(self.own, {"a.test": [self.ca], "b.test": [self.partner]})
        self.attestor = X509Attestor(BundleSource(self.identity, max_age=60, refuse=refuse))

    def peer(self, issued: Issued | None = None) -> TlsPeer:
        issued = issued or self.ca.issue(AGENT)
        return TlsPeer(leaf=issued.leaf, intermediates=issued.intermediates)

    def fault(self, peer: TlsPeer | None, now: float = NOW) -> str | None:
        with pytest.raises(Unproven) as refused:
            self.attestor.attest(peer, now)
        assert refused.value.code == "unattested"
        return refused.value.rule


@pytest.fixture
def world() -> World:
    made = World()
    assert made.attestor.attest(made.peer(), NOW).id == AGENT
    return made


def test_a_workload_says_who_how_and_until_when(world: World) -> None:
    workload = world.attestor.attest(world.peer(), NOW)
    assert (workload.id, workload.attested_by, workload.expires_at) == (AGENT, "x509", NOW + 3600)
    assert workload.trust_domain == "a.test"
    assert int(workload.serial, 16) > 0


def test_no_certificate_is_unattested(world: World) -> None:
    assert world.fault(None) == "x509:no_certificate"


def test_the_partners_authority_cannot_mint_our_ids(world: World) -> None:
    good = world.attestor.attest(world.peer(world.partner.issue("spiffe://b.test/x")), NOW)
    assert good.trust_domain == "b.test"
    forged = world.peer(world.partner.issue("spiffe://a.test/admin"))
    assert world.fault(forged) == "x509:untrusted"


def test_the_chain_is_verified_once_per_generation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = x509.verify_x509_svid
    monkeypatch.setattr(x509, "verify_x509_svid", lambda *args: (calls.append(1), real(*args))[1])
    peer = world.peer()
    for _ in range(3):
        world.attestor.attest(peer, NOW)
    assert len(calls) == 1
    world.identity.set(world.own, {"a.test": [world.ca]})
    world.attestor.attest(peer, NOW)
    assert len(calls) == 2


def test_expiry_is_checked_at_every_request(world: World) -> None:
    peer = world.peer()
    assert world.attestor.attest(peer, NOW + 3599)
    assert world.fault(peer, NOW + 3600) == "x509:expired"


def test_a_withdrawn_authority_ends_a_connection_that_was_good(world: World) -> None:
    peer = world.peer()
    assert world.attestor.attest(peer, NOW)
    successor = FakeCa("a.test")
    world.identity.set(successor.issue("spiffe://a.test/broker"), {"a.test": [successor]})
    assert world.fault(peer) == "x509:untrusted"
    assert peer.memo is None


def test_an_empty_bundle_distrusts_and_an_absent_one_is_unknown(world: World) -> None:
    peer = world.peer(world.partner.issue("spiffe://b.test/x"))
    assert world.attestor.attest(peer, NOW)
    world.identity.set(world.own, {"a.test": [world.ca], "b.test": []})
    assert world.fault(peer) == "x509:empty_bundle"
    world.identity.set(world.own, {"a.test": [world.ca]})
    assert world.fault(peer) == "x509:unknown_trust_domain"
    assert world.attestor.attest(world.peer(), NOW)


def test_a_refused_trust_domain_is_refused_whatever_its_bundle() -> None:
    strict = World(refuse=frozenset({"b.test"}))
    assert strict.attestor.attest(strict.peer(), NOW)
    assert strict.fault(strict.peer(strict.partner.issue("spiffe://b.test/x"))) == "x509:refused_trust_domain"


def test_bundles_older_than_allowed_are_in_doubt(world: World) -> None:
    world.identity.lost = NOW
    assert world.attestor.attest(world.peer(), NOW + 60)
    with pytest.raises(Unavailable) as doubt:
        world.attestor.attest(world.peer(), NOW + 61)
    assert (doubt.value.rule, doubt.value.retry_after) == ("bundle_max_age", 5.0)


def test_without_an_identity_of_our_own_callers_are_in_doubt(world: World) -> None:
    assert world.identity.state is not None
    world.identity.state = replace(world.identity.state, expires_at=NOW)
    with pytest.raises(Unavailable):
        world.attestor.attest(world.peer(), NOW)
    world.identity.state = None
    with pytest.raises(Unavailable):
        world.attestor.attest(world.peer(), NOW)


def test_a_peer_shows_no_certificate_bytes_in_its_repr(world: World) -> None:
    assert repr(world.peer()) == "TlsPeer()"
