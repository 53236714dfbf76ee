"""A JWT-SVID becomes a workload, or a typed refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.fakes.pki import NOW

from stepwrit.jwt_bundles import JwtBundles
from stepwrit.spiffe_bundle import JwtAuthorities, parse_jwt_authorities
from stepwrit_broker.attest.bundles import AuthoritySource
from stepwrit_broker.attest.jwt import JwtAttestor
from stepwrit_broker.core.errors import Unavailable, Unproven
from stepwrit_broker.dev.ca import DevCa

AGENT, ISSUER = "spiffe://a.test/agent", "https://broker.example"


class Watch:
    """A watch whose state a test writes down."""

    def __init__(self, **bundles: DevCa) -> None:
        self._generation = 0
        self.lost: float | None = None
        self.set({name.replace("_", "."): parse_jwt_authorities(ca.jwks()) for name, ca in bundles.items()})

    def set(self, by_domain: Mapping[str, JwtAuthorities]) -> None:
        self._generation += 1
        self._state = JwtBundles(by_domain=by_domain, generation=self._generation)

    def current(self) -> JwtBundles:
        return self._state

    def lost_at(self) -> float | None:
        return self.lost


class World:
    def __init__(self, refuse: frozenset[str] = frozenset()) -> None:
        self.ca, self.partner = DevCa("a.test", clock=lambda: NOW), DevCa("b.test", clock=lambda: NOW)
        self.watch = Watch(a_test=self.ca, b_test=self.partner)
        self.attestor = JwtAttestor(AuthoritySource(self.watch, max_age=60, refuse=refuse), audience=ISSUER)

    def token(self, spiffe_id: str = AGENT, ca: DevCa | None = None, **claims: Any) -> str:
        return (ca or self.ca).jwt_svid(spiffe_id, [ISSUER], **claims)

    def fault(self, token: str, now: float = NOW) -> str | None:
        with pytest.raises(Unproven) as refused:
            self.attestor.attest(token, now)
        assert refused.value.code == "unattested"
        assert token not in str(refused.value)
        return refused.value.rule


@pytest.fixture
def world() -> World:
    made = World()
    assert made.attestor.attest(made.token(), NOW).id == AGENT
    return made


def test_a_workload_says_who_how_and_until_when(world: World) -> None:
    workload = world.attestor.attest(world.token(), NOW)
    assert (workload.id, workload.attested_by, workload.expires_at) == (AGENT, "jwt", NOW + 300)
    assert len(workload.serial) == 64


def test_the_end_is_checked_at_every_call(world: World) -> None:
    token = world.token()
    assert world.attestor.attest(token, NOW + 299).id == AGENT
    assert world.fault(token, NOW + 300) == "jwt:expired"


def test_a_partners_key_speaks_for_the_partner_alone(world: World) -> None:
    assert (
        world.attestor.attest(world.token("spiffe://b.test/x", world.partner), NOW).trust_domain == "b.test"
    )
    assert world.fault(world.token(AGENT, world.partner)) == "jwt:unknown_key"


def test_what_was_good_is_judged_again_when_the_authorities_change(world: World) -> None:
    token = world.token()
    assert world.attestor.attest(token, NOW).id == AGENT
    world.watch.set({"a.test": {}})
    assert world.fault(token) == "jwt:empty_bundle"
    world.watch.set({})
    assert world.fault(token) == "jwt:unknown_trust_domain"
    world.watch.set({"a.test": parse_jwt_authorities(world.ca.jwks())})
    assert world.attestor.attest(token, NOW).id == AGENT


def test_a_refused_domain_is_refused_by_name_whatever_its_keys() -> None:
    world = World(refuse=frozenset({"b.test"}))
    assert world.attestor.attest(world.token(), NOW).id == AGENT
    assert world.fault(world.token("spiffe://b.test/x", world.partner)) == "jwt:refused_trust_domain"


def test_unknown_or_old_authorities_are_doubt(world: World) -> None:
    world.watch.lost = NOW
    assert world.attestor.attest(world.token(), NOW + 60).id == AGENT
    with pytest.raises(Unavailable):
        world.attestor.attest(world.token(), NOW + 61)
    nothing = Watch()
    nothing._state = JwtBundles(by_domain={}, generation=0)
    with pytest.raises(Unavailable):
        JwtAttestor(AuthoritySource(nothing, max_age=60), audience=ISSUER).attest(world.token(), NOW)


def test_many_documents_are_kept_within_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwrit_broker.attest.jwt.KEPT", 2)
    tokens = [world.token(jti=str(number)) for number in range(4)]
    assert {world.attestor.attest(token, NOW).id for token in tokens} == {AGENT}
    assert len(world.attestor._kept) == 2


def test_the_workload_api_need_not_say_what_its_keys_are_for(world: World) -> None:
    [key] = json.loads(world.ca.jwks())["keys"]
    bare = {name: value for name, value in key.items() if name != "use"}  # as SPIRE has it
    token = world.token()
    for shown, there in (
        (key, True),
        (bare, True),
        ({**key, "use": "x509-svid"}, False),
        ({**key, "use": ""}, False),
    ):
        found = parse_jwt_authorities(json.dumps({"keys": [shown]}).encode())
        assert bool(found) == there
        if there:
            world.watch.set({"a.test": found})
            assert world.attestor.attest(token, NOW).id == AGENT
