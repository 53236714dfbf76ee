from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.fakes.build import Maker
from tests.sdk.test_tokens import CREDENTIAL, STEP

from stepwrit.digest import b64u, unb64u
from stepwrit.dpop import make_proof, make_step_proof, token_hash
from stepwrit.jws import SigningKey
from stepwrit.wire import LEEWAY_S, TYP_CREDENTIAL, TYP_STEP_TOKEN
from stepwrit_broker.core.errors import Refused, Unavailable, Unproven
from stepwrit_broker.keys import tokens as module
from stepwrit_broker.keys.keyring import Keyring
from stepwrit_broker.keys.tokens import OwnCredentials, OwnStepTokens
from stepwrit_broker.kinds.action_token import ActionToken

NOW = 1_790_000_000.0
ISSUER, DOMAIN = STEP.issuer, STEP.trust_domain
HOLDER = SigningKey.generate()
TOKEN = replace(STEP, iat=int(NOW), exp=int(NOW) + 60)
CLAIMS = replace(CREDENTIAL, iat=int(NOW), exp=int(NOW) + 60, jkt=HOLDER.thumbprint)
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def ring(prefix: str = "st") -> Keyring:
    return Keyring(prefix, now=NOW, longest_s=300.0)


def forgotten(tokens: OwnStepTokens | OwnCredentials) -> None:
    """Like another broker of the same keys, or this one much later."""
    tokens._made._known.clear()


def step_tokens(keys: Keyring | None = None) -> OwnStepTokens:
    return OwnStepTokens(keys or ring(), issuer=ISSUER, trust_domain=DOMAIN)


def mirrored(token: str) -> str:
    """The same token with the other signature that ECDSA allows: (r, n - s)."""
    head, payload, signature = token.split(".")
    raw = unb64u(signature)
    s = ORDER - int.from_bytes(raw[32:], "big")
    return f"{head}.{payload}.{b64u(raw[:32] + s.to_bytes(32, 'big'))}"


@pytest.mark.parametrize("remembered", [True, False])
def test_what_was_minted_is_read_again(remembered: bool) -> None:
    tokens = step_tokens()
    made = tokens.mint(TOKEN, NOW)
    if not remembered:
        forgotten(tokens)
    assert tokens.read(made, NOW + 59) == TOKEN


@pytest.mark.parametrize("remembered", [True, False])
def test_a_step_token_dies_with_its_leeway_remembered_or_not(remembered: bool) -> None:
    tokens = step_tokens()
    made = tokens.mint(TOKEN, NOW)
    if not remembered:
        forgotten(tokens)
    assert tokens.read(made, TOKEN.exp + LEEWAY_S - 0.1)
    with pytest.raises(Unproven) as refused:
        tokens.read(made, TOKEN.exp + LEEWAY_S + 0.1)
    assert refused.value.code == "expired"


def test_altered_bytes_are_not_recognised_and_not_verified() -> None:
    tokens = step_tokens()
    made = tokens.mint(TOKEN, NOW)
    assert tokens.read(made, NOW)
    head, payload, signature = made.split(".")
    flipped = "A" if payload[10] != "A" else "B"
    bad = [
        f"{head}.{payload[:10]}{flipped}{payload[11:]}.{signature}",
        f"{head}.{payload}.{signature[:-4]}AAAA",
        f"{head}.{payload}.",
        f"{head}.{payload}",
        made + ".x",
        made + "=",
        " " + made,
        made + "\n",
        made.replace("e", "\ud800", 1),
        made + "é",
        "",
        "x" * 20_000,
    ]
    for each in bad:
        with pytest.raises(Unproven) as refused:
            tokens.read(each, NOW)
        assert refused.value.code == "invalid_token"


def test_the_other_signature_of_the_same_claims_says_the_same_claims() -> None:
    tokens = step_tokens()
    assert tokens.read(mirrored(tokens.mint(TOKEN, NOW)), NOW) == TOKEN


def test_a_foreign_brokers_token_is_refused() -> None:
    tokens, foreign = step_tokens(), step_tokens()
    assert foreign.read(foreign.mint(TOKEN, NOW), NOW)
    with pytest.raises(Unproven):
        tokens.read(foreign.mint(TOKEN, NOW), NOW)


def test_another_issuer_or_domain_by_our_own_key_is_refused() -> None:
    keys = ring()
    tokens = step_tokens(keys)
    assert tokens.read(keys.signing_key(NOW).sign(TYP_STEP_TOKEN, TOKEN.claims()), NOW)
    for other in (replace(TOKEN, issuer="https://evil.example"), replace(TOKEN, trust_domain="evil.test")):
        with pytest.raises(Unproven):
            tokens.read(keys.signing_key(NOW).sign(TYP_STEP_TOKEN, other.claims()), NOW)


def test_a_credential_is_no_step_token_and_the_other_way_round_even_by_one_key() -> None:
    keys = ring()
    steps, credentials = step_tokens(keys), OwnCredentials(keys, issuer=ISSUER)
    step, credential = steps.mint(TOKEN, NOW), credentials.sign(json.dumps(CLAIMS.claims()), NOW)
    assert steps.read(step, NOW)
    assert credentials.read(credential, NOW)
    with pytest.raises(Unproven):
        steps.read(credential, NOW)
    with pytest.raises(Unproven):
        credentials.read(step, NOW)


def test_the_memory_is_bounded_and_forgetting_costs_only_a_verification(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    tokens = step_tokens()
    made = [tokens.mint(replace(TOKEN, jti=str(n)), NOW) for n in range(4)]
    assert len(tokens._made._known) == 2
    assert [tokens.read(each, NOW).jti for each in made] == ["0", "1", "2", "3"]


# --- the initiator's proof


def _initiated(
    tokens: OwnStepTokens, proof: str, *, token: str, jkt: str = HOLDER.thumbprint, round_: int = 1
) -> str:
    return tokens.initiated(proof, token=token, args="a" * 43, round_=round_, jkt=jkt, now=NOW).key


def test_the_initiators_proof_is_over_this_token_these_arguments_and_this_round() -> None:
    tokens = step_tokens()
    token = tokens.mint(TOKEN, NOW)
    good = make_step_proof(HOLDER, token=token, args="a" * 43, round=1, now=NOW, jti="j1")
    assert _initiated(tokens, good, token=token) == f"{HOLDER.thumbprint}.j1"
    other = SigningKey.generate()
    for proof, token_, round_ in (
        (make_step_proof(other, token=token, args="a" * 43, round=1, now=NOW, jti="j"), token, 1),
        (make_step_proof(HOLDER, token=token, args="b" * 43, round=1, now=NOW, jti="j"), token, 1),
        (make_step_proof(HOLDER, token=token, args="a" * 43, round=1, now=NOW - 120, jti="j"), token, 1),
        (good, token, 2),
        (good, mirrored(token), 1),
        ("x", token, 1),
        (make_proof(HOLDER, "POST", "https://x.example/", NOW, "j"), token, 1),
    ):
        with pytest.raises(Unproven) as refused:
            _initiated(tokens, proof, token=token_, round_=round_)
        assert refused.value.code == "invalid_proof"


# --- credentials

URL = "https://bank.example/v1"


def credentials() -> OwnCredentials:
    return OwnCredentials(ring("at"), issuer=ISSUER)


def proof(
    token: str, *, key: SigningKey = HOLDER, method: str = "POST", url: str = URL, now: float = NOW
) -> str:
    return make_proof(key, method, url, now, "p1", ath=token_hash(token))


@pytest.mark.parametrize("remembered", [True, False])
def test_a_credential_is_presented_with_its_holders_proof(remembered: bool) -> None:
    own = credentials()
    token = own.sign(json.dumps(CLAIMS.claims()), NOW)
    if not remembered:
        forgotten(own)
    shown = own.present(token, proof(token), method="POST", url=URL, now=NOW + 1)
    assert (shown.claims, shown.jkt, shown.proof_jti) == (CLAIMS, HOLDER.thumbprint, "p1")
    assert shown.proof_until >= NOW + 60


def test_a_wrong_proof_presents_nothing() -> None:
    own = credentials()
    token = own.sign(json.dumps(CLAIMS.claims()), NOW)
    other = own.sign(json.dumps(replace(CLAIMS, grant="grt_2").claims()), NOW)
    assert own.present(token, proof(token), method="POST", url=URL, now=NOW)
    for bad in (
        proof(token, method="GET"),
        proof(token, url=URL + "/x"),
        proof(token, now=NOW - 120),
        proof(token, now=NOW + 120),
        proof(other),
        make_proof(HOLDER, "POST", URL, NOW, "p1"),
        "",
    ):
        with pytest.raises(Unproven) as refused:
            own.present(token, bad, method="POST", url=URL, now=NOW)
        assert refused.value.code == "invalid_proof"
    with pytest.raises(Refused) as stolen:
        own.present(token, proof(token, key=SigningKey.generate()), method="POST", url=URL, now=NOW)
    assert stolen.value.code == "wrong_workload"


@pytest.mark.parametrize("remembered", [True, False])
def test_a_credential_has_no_leeway_but_a_dead_one_can_still_be_reported(remembered: bool) -> None:
    own = credentials()
    token = own.sign(json.dumps(CLAIMS.claims()), NOW)
    if not remembered:
        forgotten(own)
    end = float(CLAIMS.exp)
    assert own.present(token, proof(token, now=end - 1), method="POST", url=URL, now=end - 0.1)
    with pytest.raises(Unproven) as refused:
        own.present(token, proof(token, now=end), method="POST", url=URL, now=end)
    assert refused.value.code == "expired"
    assert own.read(token, end + 100) == CLAIMS


def test_forged_foreign_and_shapeless_credentials_are_refused() -> None:
    keys = ring("at")
    own = OwnCredentials(keys, issuer=ISSUER)
    key = keys.signing_key(NOW)
    assert own.read(key.sign(TYP_CREDENTIAL, CLAIMS.claims()), NOW) == CLAIMS
    for bad in (
        credentials().sign(json.dumps(CLAIMS.claims()), NOW),
        key.sign(TYP_CREDENTIAL, replace(CLAIMS, issuer="https://evil.example").claims()),
        key.sign(TYP_CREDENTIAL, {"iss": ISSUER}),
        key.sign("JWT", CLAIMS.claims()),
        key.sign(TYP_CREDENTIAL, CLAIMS.claims(), embed_jwk=True),
        SigningKey.generate(kid=key.kid).sign(TYP_CREDENTIAL, CLAIMS.claims()),
        "x.y.z",
    ):
        with pytest.raises(Unproven) as refused:
            own.read(bad, NOW)
        assert refused.value.code == "invalid_token"


# --- the kind


async def test_an_action_token_says_what_was_planned_and_is_checked_to() -> None:
    import json

    own, make = credentials(), Maker(NOW)
    kind = ActionToken(own)
    from tests.fakes.build import AGENT

    from stepwrit_broker.core.step import Life, StepRecord

    life = Life(
        state="accepted",
        round=1,
        performer=AGENT,
        accepted_at=0,
        beat_at=0,
        waiting_at=0,
        children=0,
        ended_at=0,
    )
    record = StepRecord(step=make.root_step(), life=life)
    grant = make.grant(record, id="grt_1", claims=json.dumps(CLAIMS.claims()))
    made = kind.mint(grant, NOW)
    kind.check(grant, made, NOW)
    assert own.read(kind.mint(grant, NOW + 5), NOW) == own.read(made, NOW) == CLAIMS
    assert (kind.name, kind.use) == ("action_token", "once")
    for wrong, token in (
        (replace(grant, id="grt_9"), made),
        (grant, own.sign(json.dumps(replace(CLAIMS, exp=CLAIMS.exp + 1).claims()), NOW)),
    ):
        with pytest.raises(Unavailable) as refused:
            kind.check(wrong, token, NOW)
        assert refused.value.rule == "check"
    await kind.revoke(grant)
