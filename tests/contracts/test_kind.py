"""The contract of the credential-kind port, run on every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from stepwrit.jws import VerifyKey
from stepwrit.tokens import CredentialClaims
from stepwrit.verify import verify_credential
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.keys.keyring import Keyring
from stepwrit_broker.keys.tokens import OwnCredentials
from stepwrit_broker.kinds.action_token import ActionToken
from stepwrit_broker.ports import KindPort

NOW = 1_800_000_000.0
ISSUER = "https://broker.example.test"
AUDIENCE = "https://bank.example.test"
GRANT_ID = "grt_100" + "0" * 26


@dataclass(frozen=True, kw_only=True)
class Case:
    kind: KindPort
    says: Callable[[str], dict[str, object]]  # what a made credential says, read as a verifier reads it


def action_token() -> Case:
    ring = Keyring("at", now=NOW, longest_s=900)
    keys: dict[str, VerifyKey] = ring.verify_keys(NOW)

    def says(made: str) -> dict[str, object]:
        read = verify_credential(made, keys, issuer=ISSUER, audience=AUDIENCE, now=NOW, leeway=0)
        return read.claims()

    return Case(kind=ActionToken(OwnCredentials(ring, issuer=ISSUER)), says=says)


KINDS: list[Callable[[], Case]] = [action_token]


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param()
    return made


def planned(url: str = "https://bank.example.test/v1/transfers") -> Grant:
    claims = CredentialClaims(
        issuer=ISSUER,
        audience=AUDIENCE,
        subject="per_1",
        performer="spiffe://td.test/mcp/ledger",
        chain=("spiffe://td.test/mcp/ledger", "spiffe://td.test/agent/a"),
        jkt="k" * 43,
        txn="txn_1",
        step="stp_1",
        grant=GRANT_ID,
        origin="model",
        server="spiffe://td.test/mcp/ledger",
        tool="ledger/pay",
        impact="low",
        args="a" * 43,
        method="POST",
        url=url,
        request="r" * 43,
        iat=int(NOW),
        exp=int(NOW) + 60,
    )
    return Grant(
        id=GRANT_ID,
        step="stp_1",
        txn="txn_1",
        kind="action_token",
        tenant="default",
        audience=AUDIENCE,
        performer=SpiffeId("spiffe://td.test/mcp/ledger"),
        jkt="k" * 43,
        request="r" * 43,
        method="POST",
        url=url,
        plan_line=0,
        is_self=False,
        issued_at=NOW,
        expires_at=NOW + 60,
        epoch="e",
        ref="0" * 10,
        claims=json.dumps(claims.claims()),
    )


def test_it_has_a_name_and_says_how_it_is_used(case: Case) -> None:
    assert case.kind.name
    assert case.kind.use in ("once", "until closed")


def test_what_is_made_says_exactly_the_stored_plan(case: Case) -> None:
    grant = planned()
    made = case.kind.mint(grant, NOW)
    case.kind.check(grant, made, NOW)
    assert case.says(made) == json.loads(grant.claims)


def test_a_repeat_mints_the_same_claims_again(case: Case) -> None:
    grant = planned()
    assert case.says(case.kind.mint(grant, NOW)) == case.says(case.kind.mint(grant, NOW + 1))


def test_output_of_another_plan_does_not_leave(case: Case) -> None:
    grant, other = planned(), planned(url="https://bank.example.test/v1/other")
    case.kind.check(grant, case.kind.mint(grant, NOW), NOW)
    with pytest.raises(Unavailable):
        case.kind.check(grant, case.kind.mint(other, NOW), NOW)


def test_output_for_another_grant_does_not_leave(case: Case) -> None:
    grant = planned()
    made = case.kind.mint(grant, NOW)
    case.kind.check(grant, made, NOW)
    with pytest.raises(Unavailable):
        case.kind.check(replace(grant, id="grt_100" + "1" * 26), made, NOW)


async def test_ending_it_is_idempotent(case: Case) -> None:
    grant = planned()
    await case.kind.revoke(grant)
    await case.kind.revoke(grant)
