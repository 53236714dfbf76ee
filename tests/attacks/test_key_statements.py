"""Who can write to Redis, to the board, or is another workload, adds no key that a broker believes."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jwt
import pytest
from tests.fakes.clock import FakeClock
from tests.fakes.keyboard import MemoryKeyBoard
from tests.fakes.pki import NOW, FakeCa, FakeIdentity, Issued, identity

from stepwrit.jws import SigningKey
from stepwrit_broker.attest.bundles import BundleSource
from stepwrit_broker.attest.statements import LIFE_MAX_S, TYP, SvidKeyStatements
from stepwrit_broker.core.errors import Unavailable, Unproven
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.keys.keyring import LEAD_S, ROTATE_S, Keyring
from stepwrit_broker.keys.union import StatedKeys, UnionRing
from stepwrit_broker.ports_fleet import OwnKey, Posted, Stated
from stepwrit_broker.wiring.publishing import KeyPublishing

HOME, AWAY, ISSUER = "a.test", "b.test", "https://broker.example"
BROKER = f"spiffe://{HOME}/stepwrit/broker"
CA, FOREIGN = FakeCa(HOME), FakeCa(AWAY)
BUNDLES = {HOME: [CA], AWAY: [FOREIGN]}
Claims = dict[str, Any]


def own_key(use: str = "st", **changes: Any) -> OwnKey:
    key = SigningKey.generate()
    kid = f"{use}-{key.thumbprint[:16]}"
    jwk = {**key.published_jwk, "kid": kid}
    made = OwnKey(use=use, kid=kid, jwk=jwk, since=NOW, until=NOW + 3000)  # type: ignore[arg-type]
    return replace(made, **changes)


@dataclass
class One:
    """A broker, as far as statements go."""

    identity: FakeIdentity
    statements: SvidKeyStatements
    brokers: set[str]


def broker(issued: Issued | None = None, **how: Any) -> One:
    who = identity(issued or CA.issue(BROKER), BUNDLES, **how)
    brokers = {BROKER, f"spiffe://{AWAY}/stepwrit/broker"}
    source = BundleSource(who, max_age=600)
    made = SvidKeyStatements(who, source, home=HOME, issuer=ISSUER, is_broker=lambda each: each in brokers)
    return One(who, made, brokers)


def judged(posted: Posted, now: float = NOW, *, by: One | None = None) -> Stated:
    return (by or broker()).statements.judge(posted, now)


def refused(posted: Posted, now: float = NOW, *, by: One | None = None) -> str:
    with pytest.raises(Unproven) as no:
        judged(posted, now, by=by)
    return no.value.rule or ""


def forged(
    signer: Any, shown: Issued, change: Callable[[Claims], None] = lambda _: None, **head: Any
) -> Posted:
    """A statement of the usual shape, by any key, showing any chain."""
    key = own_key()
    claims: Claims = {
        "v": 1, "iss": BROKER, "aud": ISSUER, "use": "st", "jwk": dict(key.jwk),
        "iat": int(NOW), "nbf": int(NOW), "exp": int(NOW) + 3000,
    }  # fmt: skip
    change(claims)
    x5c = [base64.b64encode(each).decode() for each in shown.chain]
    algorithm = head.pop("alg", "ES256")
    text = jwt.encode(claims, signer, algorithm=algorithm, headers={"typ": TYP, "x5c": x5c, **head})
    return Posted(id=key.kid, text=text, until=NOW + 3000)


@pytest.mark.parametrize("sort", ["p256", "p384", "rsa"])
@pytest.mark.parametrize("use", ["st", "at", "gr"])
def test_a_brokers_statement_is_believed_by_another(sort: str, use: str) -> None:
    issued, key = CA.intermediate().issue(BROKER, key=sort), own_key(use)
    posted = broker(issued).statements.state(key, NOW)
    found = judged(posted)
    assert found == Stated(broker=SpiffeId(BROKER), use=key.use, kid=key.kid, jwk=key.jwk, until=NOW + 3000)


def test_forged_with_a_key_of_ones_own_under_a_brokers_chain() -> None:
    good = CA.issue(BROKER)
    assert judged(forged(good.key, good))
    assert refused(forged(CA.issue(BROKER).key, good)) == "signature"


def test_the_key_of_a_chain_that_nobody_signed() -> None:
    other = FakeCa(HOME).issue(BROKER)
    assert refused(forged(other.key, other)) == "x509:untrusted"


def test_a_workload_with_another_role() -> None:
    agent = CA.issue(f"spiffe://{HOME}/agent")

    def as_itself(claims: Claims) -> None:
        claims["iss"] = f"spiffe://{HOME}/agent"

    assert refused(forged(agent.key, agent, as_itself)) == "role"
    assert refused(forged(agent.key, agent)) == "iss"


def test_a_foreign_svid_and_a_statement_of_another_trust_domain() -> None:
    """Also one that is a broker there, and whose domain we know."""
    away = FOREIGN.issue(f"spiffe://{AWAY}/stepwrit/broker")

    def as_itself(claims: Claims) -> None:
        claims["iss"] = f"spiffe://{AWAY}/stepwrit/broker"

    assert refused(forged(away.key, away, as_itself)) == "x509:unknown_trust_domain"
    minted = FOREIGN.issue(BROKER)  # their authority names our broker
    assert refused(forged(minted.key, minted)) == "x509:untrusted"


def test_a_statement_for_another_fleet_of_the_same_trust_domain() -> None:
    good = CA.issue(BROKER)

    def elsewhere(claims: Claims) -> None:
        claims["aud"] = "https://other.example"

    assert refused(forged(good.key, good, elsewhere)) == "iss"


def test_an_old_statement_played_again_after_its_end() -> None:
    posted = broker().statements.state(own_key(), NOW)
    assert judged(posted, NOW + 2999)
    assert refused(replace(posted, until=NOW + 9999), NOW + 3000) == "expired"


def test_a_statement_ends_with_the_svid_that_signed_for_it() -> None:
    short = broker(CA.issue(BROKER, ends=100))
    key = own_key()
    posted = short.statements.state(key, NOW)
    assert posted.until == NOW + 100
    assert judged(posted, NOW + 99).until == NOW + 100
    assert refused(posted, NOW + 101) == "x509:expired"
    shown = CA.issue(BROKER, ends=100)  # one that says it lives longer
    assert judged(forged(shown.key, shown)).until == NOW + 100


def test_an_authority_that_is_withdrawn_takes_its_keys_along() -> None:
    posted, other = broker().statements.state(own_key(), NOW), broker()
    assert judged(posted, by=other)
    other.identity.set(CA.issue(BROKER), {HOME: [FakeCa(HOME)]})
    assert refused(posted, by=other) == "x509:untrusted"
    other.identity.set(CA.issue(BROKER), {HOME: []})
    assert refused(posted, by=other) == "x509:empty_bundle"


def test_a_broker_that_is_stopped_or_struck_off_takes_its_keys_along() -> None:
    posted, other = broker().statements.state(own_key(), NOW), broker()
    assert judged(posted, by=other)
    other.brokers.clear()
    assert refused(posted, by=other) == "role"


def test_what_was_believed_once_is_judged_again_each_time() -> None:
    """Its signature is not verified again; everything else is."""
    posted, other = broker().statements.state(own_key(), NOW), broker()
    assert judged(posted, NOW + 2999, by=other)
    assert refused(posted, NOW + 3000, by=other) == "expired"
    head, claims, signature = posted.text.split(".")
    for text in (f"{head}.{claims}.{signature[:-8]}AAAAAAAA", f"{head}.{claims[:-8]}AAAAAAAA.{signature}"):
        assert refused(replace(posted, text=text), by=other) in ("signature", "shape")


def test_a_flood_of_good_statements_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwrit_broker.attest.statements.HELD_MAX", 2)
    one, other = broker(), broker()
    posted = [one.statements.state(own_key(), NOW) for _ in range(4)]
    for each in (*posted, *posted):
        assert judged(each, by=other)
    assert len(other.statements._held) == 2


def test_a_key_is_stated_once_by_each_svid() -> None:
    """Signing at every look would cost more than all that is looked at."""
    one, key = broker(), own_key()
    first = one.statements.state(key, NOW)
    assert one.statements.state(key, NOW + 1) is first
    one.identity.set(CA.issue(BROKER), BUNDLES)
    assert one.statements.state(key, NOW + 2).id != first.id


def test_in_doubt_nothing_is_judged() -> None:
    posted, other = broker().statements.state(own_key(), NOW), broker()
    other.identity.state = None
    with pytest.raises(Unavailable):
        judged(posted, by=other)
    with pytest.raises(Unavailable):
        other.statements.state(own_key(), NOW)


def test_another_brokers_kid_is_not_to_be_had_for_another_key() -> None:
    good, theirs = CA.issue(BROKER), own_key()

    def stolen(claims: Claims) -> None:
        claims["jwk"]["kid"] = theirs.kid

    def other_use(claims: Claims) -> None:
        claims["use"] = "at"

    for change in (stolen, other_use):
        assert refused(forged(good.key, good, change)) == "kid"


@pytest.mark.parametrize(
    ("member", "value", "rule"),
    [
        ("v", 2, "iss"), ("use", "xx", "use"), ("use", None, "use"), ("jwk", None, "use"), ("jwk", {}, "jwk"),
        ("exp", None, "life"), ("exp", int(NOW) - 1, "life"), ("nbf", True, "life"),
        ("exp", NOW + 10.5, "life"),
        ("exp", int(NOW + LIFE_MAX_S) + 1, "life"), ("aud", [ISSUER], "iss"), ("iss", "", "iss"),
    ],
)  # fmt: skip
def test_claims_of_another_shape(member: str, value: object, rule: str) -> None:
    good = CA.issue(BROKER)

    def change(claims: Claims) -> None:
        claims[member] = value

    assert judged(forged(good.key, good))
    assert refused(forged(good.key, good, change)) == rule


def test_times_that_no_clock_reaches_are_refused_and_stop_no_round() -> None:
    good = CA.issue(BROKER)

    def far(claims: Claims) -> None:
        claims["nbf"], claims["exp"] = 10**400, 10**400 + 60

    assert judged(forged(good.key, good))
    assert refused(forged(good.key, good, far)) == "life"


@pytest.mark.parametrize(
    ("head", "rule"),
    [
        ({"typ": "JWT"}, "typ"), ({"typ": "at+jwt"}, "typ"), ({"kid": "x"}, "typ"),
        ({"jku": "https://x"}, "typ"),
        ({"x5c": []}, "x5c"), ({"x5c": "MII"}, "x5c"), ({"x5c": [1]}, "x5c"), ({"x5c": ["!"]}, "x5c"),
        ({"x5c": ["AAAA"] * 9}, "x5c"), ({"x5c": ["AAAA"]}, "x509:malformed"),
    ],
)  # fmt: skip
def test_heads_of_another_shape(head: dict[str, Any], rule: str) -> None:
    good = CA.issue(BROKER)
    assert judged(forged(good.key, good))
    assert refused(forged(good.key, good, **head)) == rule


def test_the_algorithm_is_the_keys_and_not_the_headers() -> None:
    rsa = CA.issue(BROKER, key="rsa")
    assert judged(forged(rsa.key, rsa, alg="RS256"))
    assert refused(forged(rsa.key, rsa, alg="PS256")) == "alg"
    none = forged("", rsa, alg="none")
    assert refused(none) == "alg"


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b.c", "a.b.c.d", "x" * 20_000])
def test_what_is_no_statement_at_all(text: str) -> None:
    assert refused(Posted(id="st-x", text=text, until=NOW + 10)) in ("shape", "size")


# --- the round: what is posted, read, used


class Fleet:
    """Brokers on one board."""

    def __init__(self) -> None:
        self.board, self.clock = MemoryKeyBoard(), FakeClock(NOW)

    def join(self) -> tuple[Keyring, UnionRing, KeyPublishing, One]:
        own = Keyring("st", now=NOW, longest_s=300, held=True)
        others, one = StatedKeys(), broker(clock=self.clock.now)

        publishing = KeyPublishing(
            board=self.board, statements=one.statements, rings=[own], others=others, clock=self.clock
        )
        return own, UnionRing(own, others, "st"), publishing, one


async def test_a_key_signs_nothing_before_it_is_posted_and_then_all_know_it() -> None:
    fleet = Fleet()
    _, mine, me, _ = fleet.join()
    _, theirs, they, _ = fleet.join()
    with pytest.raises(Unavailable) as early:
        mine.signing_key(NOW)
    assert early.value.rule == "keys"
    await me.round()
    kid = mine.signing_key(NOW).kid
    assert kid not in theirs.verify_keys(NOW)
    await they.round()
    assert kid in theirs.verify_keys(NOW)
    assert [each["kid"] for each in theirs.jwks(NOW)][1:] == [kid]
    assert len(mine.jwks(NOW)) == 1


async def test_a_next_key_that_cannot_be_posted_is_not_used_and_the_last_one_not_for_ever() -> None:
    fleet = Fleet()
    own, mine, me, _ = fleet.join()
    await me.round()
    first = mine.signing_key(NOW).kid
    assert mine.signing_key(NOW + ROTATE_S + LEAD_S - 1).kid == first  # the second is held
    with pytest.raises(Unavailable):
        mine.signing_key(NOW + ROTATE_S + LEAD_S)
    for each in own.stated(NOW + ROTATE_S + LEAD_S):
        own.release(each.kid)
    assert mine.signing_key(NOW + ROTATE_S + LEAD_S).kid != first


async def test_noise_on_the_board_adds_no_key_and_hides_none() -> None:
    fleet = Fleet()
    _, mine, me, _ = fleet.join()
    _, theirs, they, _ = fleet.join()
    await me.round()
    kid = mine.signing_key(NOW).kid
    agent = CA.issue(f"spiffe://{HOME}/agent")
    for number, posted in enumerate((forged(agent.key, agent), Posted(id="x", text="x", until=NOW + 9))):
        await fleet.board.post(replace(posted, id=f"{kid}.{number}"), NOW)
    await they.round()
    assert set(theirs.verify_keys(NOW)) == {kid, *(each["kid"] for each in theirs.own.jwks(NOW))}
    assert (they.known, they.refused) == (1, 2)


async def test_a_new_svid_states_the_keys_anew_and_a_gone_one_ends_them() -> None:
    fleet = Fleet()
    _, mine, me, one = fleet.join()
    _, theirs, they, other = fleet.join()
    one.identity.set(CA.issue(BROKER, ends=100), BUNDLES)
    await me.round()
    kid = mine.signing_key(NOW).kid
    await they.round()
    assert kid in theirs.verify_keys(NOW + 99)
    assert kid not in theirs.verify_keys(NOW + 100)  # also when nobody reads the board again
    one.identity.set(CA.issue(BROKER, ends=1000), BUNDLES)
    await me.round()
    await they.round()
    assert kid in theirs.verify_keys(NOW + 999)
    other.identity.set(CA.issue(BROKER), {HOME: []})
    await they.round()
    assert kid not in theirs.verify_keys(NOW)
