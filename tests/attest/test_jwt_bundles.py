"""The JWT authorities that the Workload API gives: what is known, what is taken back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attest.scripted import eventually

from stepwrit._jwt_svids import HeldJwtSvids
from stepwrit.errors import ConfigurationError, IdentityUnavailable
from stepwrit.identity import WorkloadIdentity
from stepwrit.jwt_bundles import JwtBundleWatch
from stepwrit.jwtsvid import verify_jwt_svid
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.workload_api import DevTrustDomain

ISSUER = "https://broker.example"


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[DevTrustDomain]:
    running = DevTrustDomain(tmp_path, trust_domain="a.test")
    with pytest.warns(DevelopmentModeWarning):
        running.start_sync()
    yield running
    running.stop_sync()


@pytest.fixture
def watch(domain: DevTrustDomain) -> Iterator[JwtBundleWatch]:
    """A watch that is well: the positive control of every test that takes it."""
    watching = JwtBundleWatch(domain.socket_for("broker"))
    assert (watching.current().generation, watching.health().state) == (0, "not_started")
    watching.start()
    eventually(lambda: watching.health().state == "ok" and "a.test" in watching.current().by_domain)
    yield watching
    watching.close()


@pytest.fixture
def agent(domain: DevTrustDomain) -> Iterator[WorkloadIdentity]:
    identity = WorkloadIdentity(domain.socket_for("agent"))
    identity.start_sync()
    identity.wait_ready_sync(10)
    yield identity
    identity.close_sync()


def test_a_jwt_svid_of_ours_is_verified_by_what_the_watch_gives(
    watch: JwtBundleWatch, agent: WorkloadIdentity
) -> None:
    token = agent.jwt_svid(ISSUER)
    now = time.time()
    svid = verify_jwt_svid(token, audience=ISSUER, authorities=watch.current().by_domain, now=now)
    assert svid.spiffe_id == "spiffe://a.test/agent"


def test_a_rotation_adds_a_key_and_a_withdrawal_takes_all(
    watch: JwtBundleWatch, domain: DevTrustDomain
) -> None:
    before = watch.current()
    domain.rotate_ca()
    eventually(lambda: watch.current().generation > before.generation)
    assert set(watch.current().by_domain["a.test"]) > set(before.by_domain["a.test"])
    domain.withdraw()
    eventually(lambda: not watch.current().by_domain["a.test"])


def test_a_deleted_entry_takes_everything_back_and_says_so(
    watch: JwtBundleWatch, domain: DevTrustDomain, agent: WorkloadIdentity
) -> None:
    domain.delete_entry("broker")
    eventually(lambda: watch.health().state == "withdrawn")
    eventually(lambda: not watch.current().by_domain)
    assert watch.lost_at() is not None
    domain.delete_entry("agent")
    eventually(lambda: agent.health().state == "withdrawn")
    with pytest.raises(IdentityUnavailable, match="no registration entry matches"):
        agent.jwt_svid(ISSUER)


def test_a_closed_watch_knows_nothing(watch: JwtBundleWatch) -> None:
    watch.close()
    assert (watch.health().state, dict(watch.current().by_domain)) == ("closed", {})


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    watching = JwtBundleWatch(f"unix://{tmp_path}/none.sock")
    watching.start()
    eventually(lambda: "there is no socket" in watching.health().why)
    assert watching.health().state == "starting"
    watching.close()
    with pytest.raises(ConfigurationError, match="unix:///"):
        JwtBundleWatch("tcp://127.0.0.1:1")


def test_a_jwt_svid_is_held_against_an_agent_that_is_away_while_it_lasts(tmp_path: Path) -> None:
    passed = 0.0
    domain = DevTrustDomain(tmp_path, trust_domain="a.test", jwt_life=60.0)
    with pytest.warns(DevelopmentModeWarning):
        domain.start_sync()
    identity = WorkloadIdentity(domain.socket_for("agent"), clock=lambda: time.time() + passed)
    identity.start_sync()
    identity.wait_ready_sync(10)
    first = identity.jwt_svid(ISSUER)
    domain.stop_sync()
    assert identity.jwt_svid(ISSUER) == first
    with pytest.raises(IdentityUnavailable, match="no JWT-SVID"):
        identity.jwt_svid("https://another.example")
    passed = 56.0
    with pytest.raises(IdentityUnavailable, match="no JWT-SVID"):
        identity.jwt_svid(ISSUER)
    identity.close_sync()


def test_a_denied_jwt_svid_is_not_held(domain: DevTrustDomain, agent: WorkloadIdentity) -> None:
    """The stream of X.509-SVIDs may still be asking again: the denial of this call counts by itself."""
    held = HeldJwtSvids(agent.socket, time.time)
    spiffe_id = "spiffe://a.test/agent"
    assert held.get(ISSUER, spiffe_id, 5.0)
    domain.delete_entry("agent")
    with pytest.raises(IdentityUnavailable, match="no registration entry"):
        held.get(ISSUER, spiffe_id, 5.0)
    domain.stop_sync()
    with pytest.raises(IdentityUnavailable, match="no JWT-SVID"):
        held.get(ISSUER, spiffe_id, 5.0)
