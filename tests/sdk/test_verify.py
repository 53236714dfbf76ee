"""Offline verification of step tokens and credentials, and the wall between kinds of tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import pytest
from spiffe import JwtBundle, JwtSvid, TrustDomain
from spiffe.svid.errors import JwtSvidError

from stepwrit.digest import args_digest, request_digest
from stepwrit.dpop import token_hash, verify_proof, verify_step_proof
from stepwrit.jws import SigningKey, TokenRefused, UnknownKey
from stepwrit.tokens import CredentialClaims, StepToken
from stepwrit.verify import key_set, verify_credential, verify_step_token
from stepwrit.wire import (
    CLAIM_STEP,
    CREDENTIAL_MAX_S,
    STEP_TOKEN_MAX_S,
    TYP_CREDENTIAL,
    TYP_DPOP,
    TYP_STEP_PROOF,
    TYP_STEP_TOKEN,
)

NOW = 4_000_000_000  # far ahead, so that a verifier with its own clock finds nothing expired
ISSUER, DOMAIN, AUDIENCE = "https://broker.example.org:8444", "example.org", "https://api.example.org"
AGENT, SERVER = "spiffe://example.org/agent", "spiffe://example.org/mcp/invoices"
STEP_KEY, CREDENTIAL_KEY, HOLDER = (SigningKey.generate() for _ in range(3))
STEP_KEYS = {STEP_KEY.kid: STEP_KEY.verify_key}
CREDENTIAL_KEYS = {CREDENTIAL_KEY.kid: CREDENTIAL_KEY.verify_key}
ARGS = args_digest({"id": 17})

STEP = StepToken(
    issuer=ISSUER, trust_domain=DOMAIN, txn="txn_1", step="stp_1", subject="usr_1", scope="invoices/send",
    initiator=AGENT, initiator_jkt=HOLDER.thumbprint, performer=SERVER, origin="model", tool="send",
    args=ARGS,
    purpose="send the invoice", intent_origin="human", proof="bound", iat=NOW, exp=NOW + 60, jti="j1",
)  # fmt: skip
CREDENTIAL = CredentialClaims(
    issuer=ISSUER, audience=AUDIENCE, subject="usr_1", performer=SERVER, chain=(SERVER, AGENT),
    jkt=HOLDER.thumbprint, txn="txn_1", step="stp_1", grant="grt_1", origin="model", server="invoices",
    tool="send",
    impact="medium", args=ARGS, method="POST", url=f"{AUDIENCE}/v1", request=request_digest("POST",
    AUDIENCE, b""),
    iat=NOW, exp=NOW + 60,
)  # fmt: skip


def step_token(claims: Mapping[str, object] = STEP.claims(), key: SigningKey = STEP_KEY) -> str:
    return key.sign(TYP_STEP_TOKEN, claims)


def credential(claims: Mapping[str, object] = CREDENTIAL.claims(), key: SigningKey = CREDENTIAL_KEY) -> str:
    return key.sign(TYP_CREDENTIAL, claims)


def check_step(token: str, **over) -> StepToken:
    asked = {"issuer": ISSUER, "trust_domain": DOMAIN, "now": NOW + 1, "leeway": 5}
    return verify_step_token(token, over.pop("keys", STEP_KEYS), **{**asked, **over})


def check_credential(token: str, **over) -> CredentialClaims:
    asked = {"issuer": ISSUER, "audience": AUDIENCE, "now": NOW + 1, "leeway": 5}
    return verify_credential(token, over.pop("keys", CREDENTIAL_KEYS), **{**asked, **over})


def refusal(attempt: Callable[[], object]) -> str:
    with pytest.raises(TokenRefused) as caught:
        attempt()
    return caught.value.reason


def test_a_step_token_reads_back_as_it_was_made():
    assert check_step(step_token()) == STEP


def test_a_credential_reads_back_as_it_was_made():
    assert check_credential(credential()) == CREDENTIAL


def test_a_root_s_token_has_no_tool_and_no_arguments():
    root = dataclasses.replace(STEP, tool=None, args=None, origin="human", proof=None)
    assert check_step(step_token(root.claims())) == root


def test_an_unknown_key_id_is_its_own_refusal():
    assert check_step(step_token())
    with pytest.raises(UnknownKey):
        check_step(step_token(key=SigningKey.generate()))
    with pytest.raises(UnknownKey):
        check_credential(credential(), keys={})


def test_a_known_key_id_with_another_key_s_signature_is_refused():
    forger = SigningKey.generate(kid=STEP_KEY.kid)
    assert refusal(lambda: check_step(step_token(key=forger))) == "signature"


def test_the_other_kind_s_keys_do_not_verify():
    assert refusal(lambda: check_step(step_token(key=CREDENTIAL_KEY))) == "unknown_key"
    assert refusal(lambda: check_credential(credential(key=STEP_KEY))) == "unknown_key"


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"issuer": ISSUER + "/"}, "issuer"), ({"trust_domain": "example.com"}, "audience"),
        ({"now": NOW + 65}, "expired"), ({"now": NOW + 60, "leeway": 0}, "expired"),
        ({"now": NOW - 6}, "not_yet_valid"),
        ({"now": NOW - 1, "leeway": 0}, "not_yet_valid"), ({"now": math.nan}, "expired"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_step_token_from_elsewhere_for_elsewhere_or_another_time_is_refused(over, reason):
    for now, leeway in ((NOW + 64.9, 5), (NOW + 59.9, 0), (NOW - 5, 5), (NOW, 0)):
        assert check_step(step_token(), now=now, leeway=leeway)
    assert refusal(lambda: check_step(step_token(), **over)) == reason


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"issuer": "https://evil"}, "issuer"), ({"audience": AUDIENCE + "/"}, "audience"),
        ({"now": NOW + 65}, "expired"), ({"now": NOW - 6}, "not_yet_valid"), ({"now": math.nan}, "expired"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_credential_from_elsewhere_for_elsewhere_or_another_time_is_refused(over, reason):
    assert check_credential(credential(), now=NOW + 59.9, leeway=0)
    assert refusal(lambda: check_credential(credential(), **over)) == reason


def test_a_life_beyond_the_cap_is_refused():
    assert check_step(step_token(dataclasses.replace(STEP, exp=NOW + STEP_TOKEN_MAX_S).claims()))
    assert check_credential(credential(dataclasses.replace(CREDENTIAL, exp=NOW + CREDENTIAL_MAX_S).claims()))
    for exp in (NOW + STEP_TOKEN_MAX_S + 1, NOW, NOW - 1):
        token = step_token(dataclasses.replace(STEP, exp=exp).claims())
        assert refusal(lambda token=token: check_step(token)) == "life"
    token = credential(dataclasses.replace(CREDENTIAL, exp=NOW + CREDENTIAL_MAX_S + 1).claims())
    assert refusal(lambda: check_credential(token)) == "life"


# claims that may be null: a root has no tool and no arguments, a trigger's intent no person's proof
NULLABLE = {(CLAIM_STEP, "tool"), (CLAIM_STEP, "args"), ("tctx", "proof")}


def paths(claims: Mapping[str, object]) -> list[tuple[str, ...]]:
    inner = [(name, deep) for name, each in claims.items() if isinstance(each, dict) for deep in each]
    return [(name,) for name in claims] + [path for path in inner if path not in NULLABLE]


def changed(claims: Mapping[str, object], path: tuple[str, ...], value: object) -> dict[str, object]:
    if len(path) == 1:
        return {**claims, path[0]: value}
    return {**claims, path[0]: changed(claims[path[0]], path[1:], value)}


@pytest.mark.parametrize("path", paths(STEP.claims()), ids="/".join)
@pytest.mark.parametrize("value", [None, True, 1.5, ["x"], {"y": 1}], ids=repr)
def test_every_claim_of_a_step_token_is_required_and_typed(path, value):
    assert check_step(step_token())
    token = step_token(changed(STEP.claims(), path, value))
    assert refusal(lambda: check_step(token)) in ("claims", "version")


@pytest.mark.parametrize("path", [p for p in paths(CREDENTIAL.claims()) if p != ("act", "act")], ids="/".join)
@pytest.mark.parametrize("value", [None, True, 1.5, ["x"], {"y": 1}], ids=repr)
def test_every_claim_of_a_credential_is_required_and_typed(path, value):
    assert check_credential(credential())
    token = credential(changed(CREDENTIAL.claims(), path, value))
    assert refusal(lambda: check_credential(token)) in ("claims", "version")


@pytest.mark.parametrize("name", list(STEP.claims()))
def test_a_missing_claim_of_a_step_token_is_refused(name):
    claims = {key: value for key, value in STEP.claims().items() if key != name}
    assert refusal(lambda: check_step(step_token(claims))) in ("claims", "version")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((CLAIM_STEP, "origin"), "robot"), (("tctx", "origin"), "robot"), (("tctx", "proof"), "sworn"),
        (("iat",), str(NOW)), (("exp",), "soon"), (("aud",), [DOMAIN]),
    ],
    ids=repr,
)  # fmt: skip
def test_unknown_words_in_a_step_token_are_refused(path, value):
    assert refusal(lambda: check_step(step_token(changed(STEP.claims(), path, value)))) == "claims"


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.5])
def test_another_version_is_its_own_refusal(version):
    for good, check, sign in ((STEP, check_step, step_token), (CREDENTIAL, check_credential, credential)):
        assert check(sign(good.claims()))
        token = sign(changed(good.claims(), (CLAIM_STEP, "v"), version))
        assert refusal(lambda token=token, check=check: check(token)) == "version"


def test_a_credential_whose_actor_is_not_its_client_is_refused():
    for chain in ((AGENT, SERVER), (AGENT,)):
        token = credential(dataclasses.replace(CREDENTIAL, chain=chain).claims())
        assert refusal(lambda token=token: check_credential(token)) == "claims"
    token = credential({**CREDENTIAL.claims(), "act": {}})
    assert refusal(lambda: check_credential(token)) == "claims"


def test_a_credential_has_exactly_one_action_of_our_type_with_a_known_impact():
    (action,) = CREDENTIAL.claims()["authorization_details"]
    for details in ([], [action, action], [{**action, "type": "other"}], [{**action, "impact": "none"}], [5]):
        token = credential({**CREDENTIAL.claims(), "authorization_details": details})
        assert refusal(lambda token=token: check_credential(token)) == "claims"


def test_a_published_key_set_verifies_what_its_keys_signed():
    other = {"kty": "RSA", "kid": "r1", "n": "AQAB", "e": "AQAB"}
    keys = key_set({"keys": [other, STEP_KEY.published_jwk, {**HOLDER.public_jwk, "use": "enc"}, 5]})
    assert keys == STEP_KEYS
    assert check_step(step_token(), keys=keys) == STEP


@pytest.mark.parametrize(
    "jwks",
    [
        {}, {"keys": None}, {"keys": {}}, {"keys": [HOLDER.public_jwk]}, {"keys": [HOLDER.published_jwk] * 2},
        {"keys": [{**HOLDER.published_jwk, "d": "AA"}]}, {"keys": [{**HOLDER.published_jwk, "x": "AA"}]},
        {"keys": [{**HOLDER.published_jwk, "kid": 5}]}, {"keys": [{**HOLDER.published_jwk, "alg": "none"}]},
    ],
)  # fmt: skip
def test_a_broken_key_set_is_refused_whole(jwks):
    assert key_set({"keys": [HOLDER.published_jwk]})
    assert refusal(lambda: key_set(jwks)) == "key"


# --- type confusion: one key, one set of claims that satisfies everyone, only the header differs


OTHER_TOKEN = "aaa.bbb.ccc"
UNION = {
    **STEP.claims(), **CREDENTIAL.claims(), "aud": DOMAIN, "sub": SERVER,
    CLAIM_STEP: {**STEP.claims()[CLAIM_STEP], **CREDENTIAL.claims()[CLAIM_STEP]},
    "cnf": {"jkt": HOLDER.thumbprint},
    "htm": "POST", "htu": AUDIENCE, "ath": token_hash(OTHER_TOKEN),
    "tkh": token_hash(OTHER_TOKEN), "args": ARGS, "round": 1,
}  # fmt: skip
ONE_KEY = {HOLDER.kid: HOLDER.verify_key}
BUNDLE = JwtBundle(TrustDomain(DOMAIN), {HOLDER.kid: HOLDER._private.public_key()})
TYPES = (TYP_STEP_TOKEN, TYP_CREDENTIAL, TYP_DPOP, TYP_STEP_PROOF, "JWT")
TIME = {"now": NOW + 1, "leeway": 5}
VERIFIERS: dict[str, tuple[bool, Callable[[str], object]]] = {
    TYP_STEP_TOKEN: (
        False,
        lambda t: verify_step_token(t, ONE_KEY, issuer=ISSUER, trust_domain=DOMAIN, **TIME),
    ),
    TYP_CREDENTIAL: (False, lambda t: verify_credential(t, ONE_KEY, issuer=ISSUER, audience=DOMAIN, **TIME)),
    TYP_DPOP: (
        True,
        lambda t: verify_proof(t, htm="POST", htu=AUDIENCE, ath=token_hash(OTHER_TOKEN), **TIME),
    ),
    TYP_STEP_PROOF: (
        True,
        lambda t: verify_step_proof(t, token=OTHER_TOKEN, args=ARGS, round=1, jkt=HOLDER.thumbprint, **TIME),
    ),
    "JWT": (False, lambda t: JwtSvid.parse_and_validate(t, BUNDLE, {DOMAIN})),
}


@pytest.mark.parametrize("verifier", TYPES)
@pytest.mark.parametrize("typ", TYPES)
@pytest.mark.parametrize("embed_jwk", [False, True], ids=["kid", "jwk"])
def test_no_token_of_one_kind_passes_for_another(verifier, typ, embed_jwk):
    wants_jwk, attempt = VERIFIERS[verifier]
    token = HOLDER.sign(typ, UNION, embed_jwk=embed_jwk)
    if (typ, embed_jwk) == (verifier, wants_jwk):
        assert attempt(token) is not None
    else:
        with pytest.raises((TokenRefused, JwtSvidError)):
            attempt(token)
