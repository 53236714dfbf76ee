"""Proofs of possession: RFC 9449's own examples, each check of its section 4.3, and the step proof."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from stepwrit.digest import DigestError, args_digest
from stepwrit.dpop import (
    MAX_JTI_CHARS,
    make_proof,
    make_step_proof,
    token_hash,
    verify_proof,
    verify_step_proof,
)
from stepwrit.jws import SigningKey, TokenRefused

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/jose.json").read_text())
KEY, OTHER = SigningKey.generate(), SigningKey.generate()
NOW = 1_800_000_000.0
URL = "https://api.example.com/v1/invoices"
TOKEN = "aaa.bbb.ccc"


def dpop(claims: dict[str, object] | None = None, *, drop: str = "", key: SigningKey = KEY) -> str:
    base: dict[str, object] = {"htm": "POST", "htu": URL, "iat": int(NOW), "jti": "j1"}
    made = {name: value for name, value in (base | (claims or {})).items() if name != drop}
    return key.sign("dpop+jwt", made, embed_jwk=True)


def check(proof: str, **over):
    return verify_proof(proof, **{"htm": "POST", "htu": URL, "now": NOW, "leeway": 5, **over})


def refusal(proof: str, **over) -> str:
    with pytest.raises(TokenRefused) as caught:
        check(proof, **over)
    return caught.value.reason


@pytest.mark.parametrize("name", ["rfc9449_4_2", "rfc9449_7_1"])
def test_the_examples_of_rfc_9449(name):
    vector = VECTORS[name]
    ath = token_hash(vector["token"]) if "token" in vector else None
    assert ath == vector.get("ath")
    asked = {"htm": vector["htm"], "htu": vector["htu"], "leeway": 0, "ath": ath, "jkt": vector["jkt"]}
    proof = verify_proof(vector["proof"], now=vector["iat"] + 1, **asked)
    assert (proof.jti, proof.iat, proof.jkt) == (vector["jti"], vector["iat"], vector["jkt"])
    with pytest.raises(TokenRefused, match="expired"):
        verify_proof(vector["proof"], now=vector["iat"] + 61, **asked)


def test_a_made_proof_verifies_and_tells_how_long_to_remember_its_jti():
    made = make_proof(KEY, "POST", URL + "?q=1#f", NOW + 0.9, "j1", ath=token_hash(TOKEN), nonce="n1")
    proof = check(made, ath=token_hash(TOKEN), nonce="n1", jkt=KEY.thumbprint)
    assert (proof.jti, proof.jkt, proof.key) == ("j1", KEY.thumbprint, KEY.verify_key)
    assert proof.usable_until == NOW + 60 + 5
    assert check(made, now=proof.usable_until)
    assert refusal(made, now=proof.usable_until + 0.1) == "expired"


def test_pyjwt_reads_our_proof_and_we_read_pyjwt_s():
    made = make_proof(KEY, "POST", URL, NOW, "j1")
    header = jwt.get_unverified_header(made)
    assert header == {"alg": "ES256", "typ": "dpop+jwt", "jwk": KEY.public_jwk}
    public = jwt.PyJWK(header["jwk"]).key
    options = {"verify_iat": False}
    assert jwt.decode(made, public, algorithms=["ES256"], options=options)["htu"] == URL
    private = ec.generate_private_key(ec.SECP256R1())
    claims = {"htm": "POST", "htu": URL, "iat": NOW, "jti": "j2"}
    own = SigningKey(private)
    theirs = jwt.encode(claims, private, "ES256", headers={"typ": "dpop+jwt", "jwk": own.public_jwk})
    assert check(theirs, jkt=own.thumbprint).jti == "j2"


@pytest.mark.parametrize(
    ("claims", "over", "reason"),
    [
        ({"htm": "GET"}, {}, "request"), ({"htm": "post"}, {}, "request"), ({"htm": 1}, {}, "claims"),
        ({"htu": URL + "/2"}, {}, "request"), ({"htu": URL.replace("https", "http")}, {}, "request"),
        ({"htu": URL.replace("api.", "evil.")}, {}, "request"), ({"htu": URL + "/"}, {}, "request"),
        ({"htu": "/v1/invoices"}, {}, "request"),
        ({"htu": "https://u@api.example.com/v1/invoices"}, {}, "request"),
        ({"htu": None}, {}, "claims"), ({"htu": [URL]}, {}, "claims"),
        ({"htu": URL + "?" + "x" * 4096}, {}, "claims"),
        ({"iat": int(NOW) - 66}, {}, "expired"), ({"iat": int(NOW) + 6}, {}, "not_yet_valid"),
        ({"iat": str(int(NOW))}, {}, "claims"), ({"iat": True}, {}, "claims"), ({"iat": None}, {}, "claims"),
        ({"jti": ""}, {}, "claims"), ({"jti": 5}, {}, "claims"),
        ({"jti": "x" * (MAX_JTI_CHARS + 1)}, {}, "claims"),
        ({}, {"ath": token_hash(TOKEN)}, "claims"),
        ({"ath": token_hash("x.y.z")}, {"ath": token_hash(TOKEN)}, "token"),
        ({}, {"nonce": "n1"}, "nonce"), ({"nonce": "n0"}, {"nonce": "n1"}, "nonce"),
        ({"nonce": 1}, {"nonce": "n1"}, "nonce"),
        ({}, {"jkt": OTHER.thumbprint}, "binding"), ({}, {"now": math.nan}, "expired"),
        ({}, {"max_age": 10, "now": NOW + 16}, "expired"),
        ({}, {"leeway": 0, "now": NOW - 1}, "not_yet_valid"),
    ],
    ids=repr,
)  # fmt: skip
def test_each_check_of_rfc_9449_section_4_3_refuses(claims, over, reason):
    assert (
        check(dpop({"ath": token_hash(TOKEN), "nonce": "n1"}), ath=token_hash(TOKEN), nonce="n1").jti == "j1"
    )
    assert refusal(dpop(claims), **over) == reason


@pytest.mark.parametrize("name", ["htm", "htu", "iat", "jti"])
def test_a_missing_claim_is_refused(name):
    assert check(dpop())
    assert refusal(dpop(drop=name)) == "claims"


@pytest.mark.parametrize(
    "htu",
    [
        URL + "?x=1",
        URL + "#f",
        "HTTPS://API.example.com:443/v1/./invoices",
        "https://api.example.com/v1/%69nvoices",
    ],
)
def test_urls_are_compared_without_query_and_fragment_after_normalisation(htu):
    assert check(dpop({"htu": htu})).jti == "j1"
    assert check(dpop(), htu=htu).jti == "j1"


def test_a_proof_that_names_its_key_by_kid_is_refused():
    claims = {"htm": "POST", "htu": URL, "iat": int(NOW), "jti": "j1"}
    assert check(KEY.sign("dpop+jwt", claims, embed_jwk=True))
    assert refusal(KEY.sign("dpop+jwt", claims)) == "key"


def test_a_proof_with_another_s_key_in_its_header_is_refused():
    mine, theirs = dpop(), dpop(key=OTHER)
    assert check(theirs, jkt=OTHER.thumbprint)
    forged = ".".join([theirs.split(".")[0], *mine.split(".")[1:]])
    assert refusal(forged, jkt=OTHER.thumbprint) == "signature"


def test_our_own_bad_url_is_our_error_not_the_sender_s():
    assert check(dpop())
    with pytest.raises(DigestError):
        check(dpop(), htu="/v1/invoices")
    with pytest.raises(DigestError):
        make_proof(KEY, "POST", "not a url", NOW, "j1")


def test_a_token_is_ascii():
    assert token_hash(TOKEN)
    with pytest.raises(TokenRefused):
        token_hash("tökén")


# --- the step proof


ARGS = args_digest({"customer": "C-1029"})


def step_proof(*, key: SigningKey = KEY, **over) -> str:
    return make_step_proof(key, **{"token": TOKEN, "args": ARGS, "round": 1, "now": NOW, "jti": "s1", **over})


def check_step(proof: str, **over):
    asked = {"token": TOKEN, "args": ARGS, "round": 1, "jkt": KEY.thumbprint, "now": NOW, "leeway": 5}
    return verify_step_proof(proof, **{**asked, **over})


def test_a_step_proof_binds_token_arguments_round_and_key():
    proof = check_step(step_proof())
    assert (proof.jti, proof.jkt, proof.iat, proof.usable_until) == ("s1", KEY.thumbprint, NOW, NOW + 65)


@pytest.mark.parametrize(
    ("made", "over", "reason"),
    [
        ({"token": "x.y.z"}, {}, "token"), ({"args": args_digest({})}, {}, "arguments"),
        ({"round": 2}, {}, "round"),
        ({"round": True}, {}, "round"), ({"round": "1"}, {}, "round"),
        ({"key": OTHER}, {}, "binding"), ({"now": NOW - 66}, {}, "expired"),
        ({"now": NOW + 6}, {}, "not_yet_valid"),
        ({"jti": ""}, {}, "claims"), ({"args": None}, {}, "claims"), ({}, {"token": "tökén"}, "malformed"),
        ({}, {"round": 2}, "round"), ({}, {"jkt": OTHER.thumbprint}, "binding"),
        ({}, {"now": math.nan}, "expired"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_step_proof_over_anything_else_is_refused(made, over, reason):
    assert check_step(step_proof())
    proof = step_proof(**made)
    with pytest.raises(TokenRefused) as caught:
        check_step(proof, **over)
    assert caught.value.reason == reason
