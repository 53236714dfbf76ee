"""What the Workload API hands us is read as strictly: our own SVID, and the bundles of all domains."""

from __future__ import annotations

import pytest
from spiffe._proto import workload_pb2
from tests.attest.scripted import svid
from tests.fakes.pki import Issued
from tests.refusals.case import DOMAIN, PARTNER, Case
from tests.refusals.generate import build

from stepwrit._workload_api import WatchEnded, jwt_bundles, parse_update
from stepwrit.spiffe_bundle import parse_bundle
from stepwrit.x509svid import SvidRefused, read_leaf

MATERIAL = build()
USUAL = MATERIAL.trusts["usual"]
NO_USE = "bundle/keys-without-use"
ROOT = USUAL.x509[DOMAIN][0]
# what a leaf says by itself; who signed it and when it ends is for peers to judge
ABOUT_TRUST = {
    "untrusted", "unknown_trust_domain", "empty_bundle", "expired", "not_yet_valid",
}  # fmt: skip
OWN = [
    case for case in MATERIAL.of("x509")
    if case.key is not None and case.code not in ABOUT_TRUST and case.name != "x509/junk-intermediate"
]  # fmt: skip


def shown(case: Case, bundle: bytes = ROOT, **partners: bytes) -> workload_pb2.X509SVIDResponse:
    """One message with the case as our own SVID."""
    try:
        _, named = read_leaf(case.chain[0])
    except SvidRefused:
        named = "spiffe://a.test/agent"
    issued = Issued(leaf=case.chain[0], key=case.key, intermediates=case.chain[1:])
    federated = {f"spiffe://{name.replace('_', '.')}": der for name, der in partners.items()}
    return workload_pb2.X509SVIDResponse(svids=[svid(named, issued, bundle)], federated_bundles=federated)


@pytest.mark.parametrize("case", OWN, ids=lambda case: case.name)
def test_our_own_svid_obeys_the_rules_of_leaves(case: Case) -> None:
    if case.code is None:
        assert parse_update(shown(case), None).chain == case.chain
        return
    assert parse_update(shown(MATERIAL.twin(case)), None)
    with pytest.raises(WatchEnded) as ended:
        parse_update(shown(case), None)
    assert ended.value.kind == "unusable"


@pytest.mark.parametrize("trust", ["leaf-as-anchor", "unreadable-anchor"])
def test_a_bundle_with_no_authority_is_distrusted_alone(trust: str) -> None:
    odd, plain = MATERIAL.trusts[trust].x509[DOMAIN][0], MATERIAL.cases["x509/plain"]
    assert parse_update(shown(plain, b_test=ROOT), None).bundles == {DOMAIN: (ROOT,), PARTNER: (ROOT,)}
    assert parse_update(shown(plain, b_test=odd), None).bundles == {DOMAIN: (ROOT,), PARTNER: ()}
    assert parse_update(shown(plain, b_test=ROOT + odd), None).bundles == {DOMAIN: (ROOT,), PARTNER: ()}
    assert parse_update(shown(plain, odd, b_test=ROOT), None).bundles == {DOMAIN: (), PARTNER: (ROOT,)}


def test_a_jwt_bundle_that_is_refused_is_distrusted_alone() -> None:
    good = MATERIAL.cases["bundle/plain"].raw
    for case in MATERIAL.of("bundle"):
        if (
            case.name != NO_USE
            and case.row in ("malformed", "empty-bundle", "key-use", "twice-named")
            and case.reading == "bundle"
        ):
            said = {f"spiffe://{DOMAIN}": good, f"spiffe://{PARTNER}": case.raw}
            found = jwt_bundles(workload_pb2.JWTBundlesResponse(bundles=said))
            assert (set(found[DOMAIN]), set(found[PARTNER])) == ({"p256"}, set()), case.name


def test_only_the_workload_api_may_leave_out_the_use_of_a_key() -> None:
    """Its JWK sets hold nothing but JWT authorities (section 6.2.2), and SPIRE leaves it out."""
    case = MATERIAL.cases[NO_USE]
    said = workload_pb2.JWTBundlesResponse(bundles={DOMAIN: case.raw})
    assert set(jwt_bundles(said)[DOMAIN]) == {"p256"}
    assert not parse_bundle(case.raw, DOMAIN).jwt


def test_a_domain_that_is_named_twice_is_distrusted() -> None:
    plain = MATERIAL.cases["x509/plain"]
    message = shown(plain, b_test=ROOT)
    assert parse_update(message, None).bundles[PARTNER] == (ROOT,)
    message.federated_bundles[PARTNER] = ROOT
    assert parse_update(message, None).bundles[PARTNER] == ()
    good = MATERIAL.cases["bundle/plain"].raw
    twice = {PARTNER: good, f"spiffe://{PARTNER}": good}
    assert set(jwt_bundles(workload_pb2.JWTBundlesResponse(bundles={PARTNER: good}))[PARTNER]) == {"p256"}
    assert not jwt_bundles(workload_pb2.JWTBundlesResponse(bundles=twice))[PARTNER]


def test_a_bundle_under_a_workloads_id_is_nobodys() -> None:
    plain = MATERIAL.cases["x509/plain"]
    message = shown(plain)
    message.federated_bundles[f"spiffe://{PARTNER}/x"] = ROOT
    assert parse_update(message, None).bundles == {DOMAIN: (ROOT,)}
