"""The development trust domain, judged by the official Workload API client and by our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from spiffe import TrustDomain, WorkloadApiClient
from spiffe._proto import workload_pb2, workload_pb2_grpc
from spiffe.svid.jwt_svid import JwtSvid
from spiffe.workloadapi.errors import FetchX509SvidError, ValidateJwtSvidError
from tests.attest.scripted import eventually
from tests.fakes.pki import FakeCa

from stepwrit.errors import IdentityUnavailable
from stepwrit.identity import WorkloadIdentity
from stepwrit.x509svid import verify_x509_svid
from stepwrit_broker.core.workload import DEV_TRUST_DOMAIN
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.workload_api import DevTrustDomain

LEDGER = f"spiffe://{DEV_TRUST_DOMAIN}/mcp-server/ledger"


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[DevTrustDomain]:
    made = DevTrustDomain(tmp_path / "dev")
    with pytest.warns(DevelopmentModeWarning, match=DEV_TRUST_DOMAIN):
        made.start_sync()
    yield made
    made.stop_sync()


@pytest.fixture
def ledger(domain: DevTrustDomain) -> Iterator[WorkloadIdentity]:
    identity = WorkloadIdentity(domain.socket_for("mcp-server/ledger"))
    identity.start_sync()
    assert identity.wait_ready_sync(10).spiffe_id == LEDGER
    yield identity
    identity.close_sync()


def test_what_it_issues_passes_the_verifier(ledger: WorkloadIdentity) -> None:
    snapshot = ledger.snapshot()
    svid = verify_x509_svid(snapshot.chain[0], snapshot.chain[1:], snapshot.bundles, ledger.now())
    assert svid.spiffe_id == LEDGER


def test_sockets_are_private_and_stay_the_same(domain: DevTrustDomain, tmp_path: Path) -> None:
    address = domain.socket_for("mcp-server/ledger")
    assert address == domain.socket_for("mcp-server/ledger")
    socket = Path(address.removeprefix("unix://"))
    assert socket.is_socket()
    assert socket.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in (tmp_path / "dev", socket.parent)} == {0o700}


@pytest.mark.parametrize("path", ["", "/x", "x/../y", "x//y", "x y", "x/", "a" * 120])
def test_a_path_that_is_no_id_or_no_socket_gets_none(domain: DevTrustDomain, path: str) -> None:
    with pytest.raises(ValueError, match=r"SPIFFE ID|Unix socket"):
        domain.socket_for(path)


def test_a_new_authority_reaches_everyone_with_the_old_beside_it_or_not(
    domain: DevTrustDomain, ledger: WorkloadIdentity
) -> None:
    (first,) = ledger.snapshot().bundles[DEV_TRUST_DOMAIN]
    domain.rotate_ca()
    eventually(lambda: len(ledger.snapshot().bundles[DEV_TRUST_DOMAIN]) == 2)
    domain.rotate_ca(keep_previous=False)
    eventually(lambda: len(ledger.snapshot().bundles[DEV_TRUST_DOMAIN]) == 1)
    assert first not in ledger.snapshot().bundles[DEV_TRUST_DOMAIN]


def test_withdrawal_empties_the_bundle_and_deletion_ends_the_identity(
    domain: DevTrustDomain, ledger: WorkloadIdentity
) -> None:
    domain.withdraw()
    eventually(lambda: ledger.snapshot().bundles == {DEV_TRUST_DOMAIN: ()})
    domain.delete_entry("mcp-server/ledger")

    def refused() -> bool:
        try:
            ledger.snapshot()
        except IdentityUnavailable as error:
            return "PERMISSION_DENIED" in str(error)
        return False

    eventually(refused)


def test_partners_come_and_go(domain: DevTrustDomain, ledger: WorkloadIdentity) -> None:
    partner = FakeCa("b.test").der
    domain.trust("b.test", (partner,))
    eventually(lambda: ledger.snapshot().bundles.get("b.test") == (partner,))
    domain.forget("b.test")
    eventually(lambda: "b.test" not in ledger.snapshot().bundles)


def test_svids_rotate_by_the_clock(tmp_path: Path) -> None:
    domain = DevTrustDomain(tmp_path / "dev", rotate_every=0.05)
    with pytest.warns(DevelopmentModeWarning):
        domain.start_sync()
    identity = WorkloadIdentity(domain.socket_for("x"))
    identity.start_sync()
    identity.wait_ready_sync(10)
    eventually(lambda: identity.snapshot().generation >= 3)
    identity.close_sync()
    domain.stop_sync()


def test_the_official_client_understands_all_of_it(domain: DevTrustDomain) -> None:
    with WorkloadApiClient(domain.socket_for("mcp-server/ledger"), default_timeout=10) as client:
        context = client.fetch_x509_context()
        assert str(context.default_svid.spiffe_id) == LEDGER
        token = client.fetch_jwt_svid({"broker"})
        bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(TrustDomain(DEV_TRUST_DOMAIN))
        assert bundle is not None
        assert str(JwtSvid.parse_and_validate(token.token, bundle, {"broker"}).spiffe_id) == LEDGER
        assert str(client.validate_jwt_svid(token.token, "broker").spiffe_id) == LEDGER
        with pytest.raises(ValidateJwtSvidError):
            client.validate_jwt_svid(token.token, "other")
        assert len(client.fetch_x509_bundles().bundles) == 1
        domain.delete_entry("mcp-server/ledger")
        with pytest.raises(FetchX509SvidError):
            client.fetch_x509_svid()


def test_a_request_without_the_security_header_is_refused(domain: DevTrustDomain) -> None:
    with grpc.insecure_channel(domain.socket_for("x")) as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        request = workload_pb2.X509SVIDRequest()
        header = (("workload.spiffe.io", "true"),)
        assert next(stub.FetchX509SVID(request, metadata=header, timeout=10)).svids
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.FetchX509SVID(request, timeout=10))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_it_does_nothing_before_it_is_started(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        DevTrustDomain(tmp_path / "dev").socket_for("x")
