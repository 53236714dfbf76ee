"""The contract of the signing ports, run on both key rings of a broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from stepwrit.jws import SigningKey, VerifyKey, split, verify
from stepwrit.tokens import CredentialClaims, StepToken
from stepwrit.wire import TYP_CREDENTIAL, TYP_STEP_TOKEN
from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.keys.keyring import Keyring
from stepwrit_broker.keys.tokens import OwnCredentials, OwnStepTokens

NOW = 1_800_000_000.0
ISSUER = "https://broker.example.test"
STEP = StepToken(
    issuer=ISSUER,
    trust_domain="td.test",
    txn="txn_1",
    step="stp_1",
    subject="per_1",
    scope="ledger/pay",
    initiator="spiffe://td.test/agent/a",
    initiator_jkt="k" * 43,
    performer="spiffe://td.test/mcp/ledger",
    origin="model",
    tool="ledger/pay",
    args="a" * 43,
    purpose="pay",
    intent_origin="human",
    proof="bound",
    iat=int(NOW),
    exp=int(NOW) + 60,
    jti="j1",
)
CREDENTIAL = CredentialClaims(
    issuer=ISSUER,
    audience="https://bank.example.test",
    subject="per_1",
    performer="spiffe://td.test/mcp/ledger",
    chain=("spiffe://td.test/mcp/ledger",),
    jkt="k" * 43,
    txn="txn_1",
    step="stp_1",
    grant="grt_1",
    origin="model",
    server="spiffe://td.test/mcp/ledger",
    tool="ledger/pay",
    impact="low",
    args="a" * 43,
    method="POST",
    url="https://bank.example.test/x",
    request="r" * 43,
    iat=int(NOW),
    exp=int(NOW) + 60,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    ring: Keyring
    typ: str
    sign: Callable[[float], str]
    read: Callable[[str, float], object]
    fresh_read: Callable[[str, float], object]  # by a reader that did not sign


def step_tokens() -> Case:
    ring = Keyring("st", now=NOW, longest_s=300)
    own, other = (OwnStepTokens(ring, issuer=ISSUER, trust_domain="td.test") for _ in range(2))
    return Case(
        ring=ring,
        typ=TYP_STEP_TOKEN,
        sign=lambda now: own.mint(STEP, now),
        read=own.read,
        fresh_read=other.read,
    )


def credentials() -> Case:
    ring = Keyring("at", now=NOW, longest_s=900)
    own, other = (OwnCredentials(ring, issuer=ISSUER) for _ in range(2))
    return Case(
        ring=ring,
        typ=TYP_CREDENTIAL,
        sign=lambda now: own.sign(json.dumps(CREDENTIAL.claims()), now),
        read=own.read,
        fresh_read=other.read,
    )


@pytest.fixture(params=[step_tokens, credentials], ids=lambda make: make.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param()
    return made


def test_what_it_signs_verifies_by_a_published_key_and_only_as_its_type(case: Case) -> None:
    token = split(case.sign(NOW))
    key: VerifyKey = case.ring.verify_keys(NOW)[token.header.kid or ""]
    assert verify(token, key, typ=case.typ)
    with pytest.raises(ValueError, match="expected"):
        verify(token, key, typ="JWT")


def test_it_reads_back_what_it_signed_with_and_without_having_signed_it(case: Case) -> None:
    made = case.sign(NOW)
    assert case.read(made, NOW) == case.fresh_read(made, NOW)


def test_altered_bytes_are_not_its_own(case: Case) -> None:
    made = case.sign(NOW)
    assert case.read(made, NOW)
    head, payload, signature = made.split(".")
    flipped = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
    with pytest.raises(Unproven):
        case.read(f"{head}.{payload}.{flipped}", NOW)


def test_a_foreign_key_under_a_published_name_is_refused(case: Case) -> None:
    made = split(case.sign(NOW))
    assert case.read(case.sign(NOW), NOW)
    forger = SigningKey.generate(kid=made.header.kid)
    claims = STEP.claims() if case.typ == TYP_STEP_TOKEN else CREDENTIAL.claims()
    with pytest.raises(Unproven):
        case.read(forger.sign(case.typ, claims), NOW)


def test_a_key_is_published_before_it_signs_and_verifies_until_its_last_token_is_dead(case: Case) -> None:
    first = split(case.sign(NOW)).header.kid
    soon = NOW + 3600 - 299
    assert len(case.ring.verify_keys(soon)) == 2, "the next key is published ahead"
    assert split(case.sign(soon)).header.kid == first, "and does not sign yet"
    later = NOW + 3601
    assert split(case.sign(later)).header.kid != first
    assert first in case.ring.verify_keys(later), "tokens of the first key may still live"
    assert first not in case.ring.verify_keys(NOW + 3600 + 3600)
