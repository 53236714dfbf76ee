"""Who of the attested is let in."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from stepwrit_broker.core.admission import admit
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.lineage import Role
from stepwrit_broker.core.registry import Entry, Registry
from stepwrit_broker.core.workload import AttestedBy, SpiffeId, TrustDomain, Workload

HOME, PARTNER = TrustDomain("home.test"), "partner.test"
OURS = Entry(id="spiffe://home.test/agent", name="ours", role="agent", tenant="default")
THEIRS = Entry(
    id="spiffe://partner.test/*", name="theirs", role="agent", tenant="default", attest=frozenset({"jwt"})
)


def who(spiffe_id: str, by: AttestedBy = "x509") -> Workload:
    return Workload(id=SpiffeId(spiffe_id), attested_by=by, expires_at=1.0, serial="1")


def via_proxy(role: Role) -> tuple[Registry, Workload]:
    entry = replace(OURS, role=role)
    workload = replace(who(OURS.id), via=SpiffeId("spiffe://home.test/proxy"))
    return Registry(version=1, entries=(entry,)), workload


def registry(*domains: str) -> Registry:
    return Registry(version=1, entries=(OURS, THEIRS), trust_domains=frozenset(domains))


def rule(known: Registry, workload: Workload) -> str | None:
    with pytest.raises(Unproven) as refused:
        admit(known, HOME, workload)
    assert refused.value.code == "unattested"
    assert refused.value.who_can_change_it is not None
    return refused.value.rule


def test_a_registered_workload_of_our_own_domain_is_let_in() -> None:
    assert admit(registry(), HOME, who("spiffe://home.test/agent")) is OURS
    assert rule(registry(), who("spiffe://home.test/other")) == "registry"


def test_a_foreign_domain_is_refused_until_the_registry_names_it_even_where_an_entry_covers_it() -> None:
    theirs = who("spiffe://partner.test/x", "jwt")
    assert admit(registry(PARTNER), HOME, theirs) is THEIRS
    assert rule(registry(), theirs) == "registry trust_domains"
    assert rule(registry("other.test"), theirs) == "registry trust_domains"


def test_each_entry_says_how_its_workload_may_prove_itself() -> None:
    assert admit(registry(), HOME, who(OURS.id)) is OURS
    assert rule(registry(), who(OURS.id, "jwt")) == "registry attest"
    assert rule(registry(PARTNER), who("spiffe://partner.test/x", "x509")) == "registry attest"


@pytest.mark.parametrize("role", get_args(Role))
def test_who_operates_connects_to_the_broker_itself(role: Role) -> None:
    known, workload = via_proxy(role)
    assert admit(known, HOME, replace(workload, via=None)).role == role
    if role in ("operator", "auditor"):
        assert rule(known, workload) == "proxy"
    else:
        assert admit(known, HOME, workload).role == role
