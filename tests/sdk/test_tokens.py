from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit.tokens import ClaimError, CredentialClaims, StepToken
from stepwrit.wire import ACTION_TYPE, CLAIM_STEP

STEP = StepToken(
    issuer="https://broker.example",
    trust_domain="example.test",
    txn="txn_1",
    step="stp_1",
    subject="per_1",
    scope="mail/send",
    initiator="spiffe://example.test/agent",
    initiator_jkt="k" * 43,
    performer="spiffe://example.test/mail",
    origin="model",
    tool="mail/send",
    args="a" * 43,
    purpose="read my mail",
    intent_origin="human",
    proof="bound",
    iat=1,
    exp=61,
    jti="j",
)
CREDENTIAL = CredentialClaims(
    issuer="https://broker.example",
    audience="https://bank.example",
    subject="per_1",
    performer="spiffe://example.test/mail",
    chain=("spiffe://example.test/mail", "spiffe://example.test/agent"),
    jkt="k" * 43,
    txn="txn_1",
    step="stp_1",
    grant="grt_1",
    origin="server",
    server="mail",
    tool="mail/send",
    impact="low",
    args="a" * 43,
    method="POST",
    url="https://bank.example/v1",
    request="r" * 43,
    iat=1,
    exp=61,
)


def _changed(claims: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    claims = copy.deepcopy(claims)
    at: Any = claims
    for name in path[:-1]:
        at = at[name]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return claims


def test_a_step_token_says_the_same_after_a_round_trip() -> None:
    assert StepToken.of(STEP.claims()) == STEP
    claims = STEP.claims()
    assert (claims["aud"], claims["req_wl"], claims["cnf"]) == (
        "example.test",
        "spiffe://example.test/agent",
        {"jkt": "k" * 43},
    )


@given(st.builds(StepToken))
def test_every_step_token_survives_a_round_trip(token: StepToken) -> None:
    assert StepToken.of(token.claims()) == token


@given(st.builds(CredentialClaims, chain=st.lists(st.text(min_size=1), min_size=1, max_size=8).map(tuple)))
def test_every_credential_survives_a_round_trip(claims: CredentialClaims) -> None:
    assert CredentialClaims.of(claims.claims()) == claims


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[
            ((name,), ...)
            for name in ("iss", "aud", "txn", "sub", "scope", "req_wl", "cnf", "tctx", "iat", "exp", "jti")
        ],
        ((CLAIM_STEP,), ...),
        ((CLAIM_STEP,), []),
        ((CLAIM_STEP, "id"), ...),
        ((CLAIM_STEP, "performer"), 1),
        ((CLAIM_STEP, "origin"), "god"),
        ((CLAIM_STEP, "tool"), 1),
        ((CLAIM_STEP, "args"), []),
        (("tctx", "origin"), ...),
        (("tctx", "purpose"), None),
        (("tctx", "proof"), 1),
        (("cnf", "jkt"), None),
        (("aud",), ["example.test"]),
        (("iat",), 1.0),
        (("exp",), True),
        (("exp",), "61"),
    ],
)
def test_a_step_token_with_a_wrong_claim_is_refused(path: tuple[Any, ...], value: object) -> None:
    assert StepToken.of(STEP.claims())
    with pytest.raises(ClaimError):
        StepToken.of(_changed(STEP.claims(), path, value))


def test_an_intents_token_has_neither_tool_nor_arguments() -> None:
    bare = _changed(_changed(STEP.claims(), (CLAIM_STEP, "tool"), None), (CLAIM_STEP, "args"), ...)
    read = StepToken.of(bare)
    assert (read.tool, read.args) == (None, None)


def test_a_credential_nests_its_actors_with_the_current_one_outermost() -> None:
    claims = CREDENTIAL.claims()
    assert claims["act"] == {
        "sub": "spiffe://example.test/mail",
        "act": {"sub": "spiffe://example.test/agent"},
    }
    assert CredentialClaims.of(claims) == CREDENTIAL


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[
            ((name,), ...)
            for name in ("iss", "aud", "sub", "client_id", "iat", "exp", "jti", "txn", "cnf", "act")
        ],
        (("authorization_details",), ...),
        (("authorization_details",), {}),
        (("authorization_details",), []),
        (("authorization_details",), ["x"]),
        (("authorization_details",), [{"type": ACTION_TYPE}] * 2),
        (("authorization_details", 0, "type"), "other"),
        (("authorization_details", 0, "request"), ...),
        (("authorization_details", 0, "impact"), 1),
        (("act", "sub"), 1),
        (("act", "act"), "x"),
        (("act", "act", "sub"), ...),
        ((CLAIM_STEP, "origin"), "god"),
        ((CLAIM_STEP, "id"), ...),
        (("aud",), ["https://bank.example"]),
    ],
)
def test_a_credential_with_a_wrong_claim_is_refused(path: tuple[Any, ...], value: object) -> None:
    assert CREDENTIAL.claims()["authorization_details"][0]["type"] == ACTION_TYPE  # type: ignore[index]
    with pytest.raises(ClaimError):
        CredentialClaims.of(_changed(CREDENTIAL.claims(), path, value))


def test_a_refused_claim_is_named_and_its_value_is_not_repeated() -> None:
    with pytest.raises(ClaimError) as refused:
        StepToken.of(_changed(STEP.claims(), ("jti",), ["secret"]))
    assert "jti" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_credential_names_the_person_only_when_it_was_planned_to() -> None:
    plain = CREDENTIAL
    assert "sub_id" not in plain.claims()
    named = dataclasses.replace(plain, person=("https://idp.example.test", "alice"))
    said = named.claims()["sub_id"]
    assert said == {"format": "iss_sub", "iss": "https://idp.example.test", "sub": "alice"}
    assert CredentialClaims.of(named.claims()) == named
    with pytest.raises(ClaimError, match="sub_id"):
        CredentialClaims.of({**named.claims(), "sub_id": {"format": "email", "email": "a@example.test"}})
