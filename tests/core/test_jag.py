"""The claims of a grant to another trust domain's broker: written, read back, and read strictly."""

from __future__ import annotations

from typing import Any

import pytest

from stepwrit.digest import canonical
from stepwrit_broker.core.jag import ACTORS_MAX, TEXT_MAX, BadGrant, GrantClaims, grant_digest

STEP = "https://stepwrit.dev/step"
GRANT = GrantClaims(
    issuer="https://broker.home.test",
    subject="per_1",
    audience="https://broker.away.test",
    client="spiffe://home.test/agent/chat",
    jkt="k" * 43,
    jti="grt_1",
    iat=100,
    exp=160,
    server="spiffe://away.test/mcp/vault",
    tool="read",
    impact="low",
    args="a" * 43,
    chain=("spiffe://home.test/mcp/ledger", "spiffe://home.test/agent/chat"),
    step="stp_1",
    txn="txn_1",
    ref="REF",
    origin="server",
    person=("https://idp.test", "alice"),
)


def changed(**changes: Any) -> dict[str, object]:
    said = {**GRANT.claims(), **changes}
    return {name: value for name, value in said.items() if value is not None}


def test_what_is_written_is_read_back_equal() -> None:
    assert GrantClaims.of(GRANT.claims()) == GRANT
    assert GrantClaims.of(changed(sub_id=None)).person is None
    assert GrantClaims.of(changed(aud=[GRANT.audience])) == GRANT
    act: Any = GRANT.claims()["act"]
    assert (act["sub"], act["act"]["sub"]) == GRANT.chain, "the outermost is the current actor"


def test_a_digest_is_of_the_claims_as_sent() -> None:
    one, other = canonical(GRANT.claims()), canonical(changed(jti="grt_2"))
    assert grant_digest(one) == grant_digest(bytes(one)) != grant_digest(other)
    assert len(grant_digest(one)) == 43


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": None},
        {"sub": ""},
        {"jti": "x" * (TEXT_MAX + 1)},
        {"iat": "100"},
        {"exp": True},
        {"aud": []},
        {"aud": ["a", "b"]},
        {"aud": [5]},
        {"aud": None},
        {"cnf": None},
        {"cnf": {"jkt": 5}},
        {"act": None},
        {"act": {"sub": "a", "act": "b"}},
        {"sub_id": {"format": "email", "email": "a@b.test"}},
        {"sub_id": {"format": "iss_sub", "iss": "x"}},
        {"sub_id": {"format": "iss_sub", "iss": "x", "sub": "al\0ice"}},
        {"sub_id": {"format": "iss_sub", "iss": "x", "sub": "a" * 256}},
        {"authorization_details": None},
        {"authorization_details": ["x"]},
        {STEP: None},
        {STEP: {"id": "a", "txn": "b", "ref": "c", "origin": "god"}},
    ],
)
def test_what_says_anything_else_is_no_grant(changes: dict[str, object]) -> None:
    GrantClaims.of(changed())
    with pytest.raises(BadGrant):
        GrantClaims.of(changed(**changes))


@pytest.mark.parametrize("change", [{"type": "payment"}, {"impact": "none"}, {"more": 1}, {"tool": None}])
def test_an_action_is_one_tool_with_these_arguments(change: dict[str, object]) -> None:
    details: Any = GRANT.claims()["authorization_details"]
    with pytest.raises(BadGrant):
        GrantClaims.of(changed(authorization_details=[{**details[0], **change}]))


def test_a_chain_has_an_end() -> None:
    act: dict[str, object] = {"sub": "x"}
    for _ in range(ACTORS_MAX):
        act = {"sub": "x", "act": act}
    with pytest.raises(BadGrant, match="too many"):
        GrantClaims.of(changed(act=act))
