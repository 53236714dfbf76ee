"""A person's proof: OpenID Connect Core 1.0 section 3.1.3.7, against an issuer of the test's own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stepwrit_broker.attest.person import MAX_ANSWER_BYTES, MAX_TOKEN_BYTES, REFETCH_S, Issuer, OidcPeople
from stepwrit_broker.core.errors import Refused, Unavailable

NOW = 1_790_000_000.0
URL = "https://idp.example"
CLIENT = "chat"
P256 = ec.generate_private_key(ec.SECP256R1())
P256_NEXT = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(key: Any, kid: str | None, alg: str | None = None, **more: object) -> dict[str, Any]:
    algorithm: Any = (
        jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    )
    made: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    named = {} if kid is None else {"kid": kid}
    return {**made, **named, **({} if alg is None else {"alg": alg}), **more}


class Idp:
    """An issuer behind a MockTransport. `down` fails every request; `asked` counts them by path."""

    def __init__(self) -> None:
        self.keys: list[object] = [jwk(P256, "k1", "ES256"), jwk(RSA, "r1", "RS256")]
        self.discovery: object = {"issuer": URL, "jwks_uri": f"{URL}/keys"}
        self.jwks: object = None
        self.down = False
        self.asked: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path)
        if self.down:
            raise httpx2.ConnectError("down")
        if request.url.path == "/.well-known/openid-configuration":
            return self._answer(self.discovery)
        if request.url.path == "/keys":
            return self._answer({"keys": self.keys} if self.jwks is None else self.jwks)
        return httpx2.Response(404)

    def _answer(self, value: object) -> httpx2.Response:
        if isinstance(value, bytes):
            return httpx2.Response(200, content=value)
        return httpx2.Response(200, json=value)

    def people(self, **more: Any) -> OidcPeople:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        return OidcPeople((Issuer(issuer=URL, **more),), http)

    def token(self, key: Any = P256, alg: str = "ES256", kid: str | None = "k1", **claims: object) -> str:
        body = {
            "iss": URL,
            "sub": "alice",
            "aud": CLIENT,
            "exp": int(NOW) + 300,
            "iat": int(NOW),
            "auth_time": int(NOW) - 5,
            "nonce": "n",
            **claims,
        }
        kept = {name: value for name, value in body.items() if value is not ...}
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode(kept, key, algorithm=alg, headers=headers)


def forged(header: dict[str, object], claims: object, secret: bytes = b"") -> str:
    """Anything at all as a compact JWS; HMAC-SHA-256 when there is a secret."""

    def part(value: object) -> str:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    text = f"{part(header)}.{part(claims)}"
    tag = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret else b""
    return f"{text}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"


@pytest.fixture
def idp() -> Idp:
    return Idp()


async def refused(people: OidcPeople, token: str, now: float = NOW) -> str:
    with pytest.raises(Refused) as no:
        await people.judge(token, now)
    assert no.value.code == "human_proof"
    assert len(token) < 20 or token[-20:] not in no.value.reason
    return no.value.reason


async def test_a_good_token_says_who_and_when_and_for_which_client(idp: Idp) -> None:
    token = idp.token()
    proof = await idp.people().judge(token, NOW)
    assert (proof.issuer, proof.subject, proof.clients, proof.nonce) == (URL, "alice", (CLIENT,), "n")
    assert (proof.auth_time, proof.until) == (NOW - 5, NOW + 300)
    assert token not in repr(proof)


async def test_one_token_has_one_name_and_another_token_another(idp: Idp) -> None:
    people = idp.people()
    one, other = idp.token(), idp.token(nonce="m")
    names = [(await people.judge(each, NOW)).digest for each in (one, one, other)]
    assert names[0] == names[1] != names[2]


async def test_the_same_token_under_another_signature_has_the_same_name(idp: Idp) -> None:
    """ECDSA signs the same claims in many ways: a name that held the signature would be usable twice."""
    people, token = idp.people(), idp.token()
    again = idp.token()
    assert token != again
    assert (await people.judge(token, NOW)).digest == (await people.judge(again, NOW)).digest


# --- keys


async def test_discovery_and_keys_are_fetched_once_and_then_remembered(idp: Idp) -> None:
    people = idp.people(cache_s=600.0)
    for second in range(20):
        await people.judge(idp.token(), NOW + second)
    assert idp.asked == ["/.well-known/openid-configuration", "/keys"]
    await people.judge(idp.token(exp=int(NOW) + 2000), NOW + 601)
    assert idp.asked.count("/keys") == 2


async def test_a_configured_key_url_needs_no_discovery(idp: Idp) -> None:
    await idp.people(jwks_url=f"{URL}/keys").judge(idp.token(), NOW)
    assert idp.asked == ["/keys"]


async def test_an_unknown_key_is_looked_for_once_in_ten_seconds_whatever_arrives(idp: Idp) -> None:
    people = idp.people()
    await people.judge(idp.token(), NOW)
    for _ in range(30):
        assert "does not publish" in await refused(people, idp.token(P256_NEXT, kid="k2"), NOW + 1)
    assert idp.asked.count("/keys") == 1
    idp.keys.append(jwk(P256_NEXT, "k2", "ES256"))
    assert await people.judge(idp.token(P256_NEXT, kid="k2"), NOW + REFETCH_S)
    assert idp.asked.count("/keys") == 2
    assert await people.judge(idp.token(), NOW + REFETCH_S)


async def test_a_withdrawn_key_is_forgotten_at_the_next_fetch(idp: Idp) -> None:
    people = idp.people(cache_s=60.0)
    assert await people.judge(idp.token(), NOW)
    idp.keys = [jwk(P256_NEXT, "k2", "ES256")]
    assert "does not publish" in await refused(people, idp.token(), NOW + 61)


async def test_known_keys_serve_while_the_issuer_is_down_until_they_are_stale(idp: Idp) -> None:
    people = idp.people(cache_s=60.0, stale_s=600.0)
    assert await people.judge(idp.token(exp=int(NOW) + 9000), NOW)
    idp.down = True
    assert await people.judge(idp.token(exp=int(NOW) + 9000), NOW + 599)
    with pytest.raises(Unavailable) as doubt:
        await people.judge(idp.token(exp=int(NOW) + 9000), NOW + 601)
    assert (doubt.value.code, doubt.value.rule) == ("unavailable", f"oidc {URL}")
    idp.down = False
    assert await people.judge(idp.token(exp=int(NOW) + 9000), NOW + 612)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("discovery", {"issuer": "https://evil.example", "jwks_uri": f"{URL}/keys"}),
        ("discovery", {"issuer": URL + "/", "jwks_uri": f"{URL}/keys"}),
        ("discovery", {"issuer": URL}),
        ("discovery", {"issuer": URL, "jwks_uri": 7}),
        ("discovery", {"issuer": URL, "jwks_uri": f"{URL}/gone"}),
        ("discovery", {"issuer": URL, "jwks_uri": "http://[/"}),
        ("discovery", [1]),
        ("discovery", b"not json"),
        ("discovery", b"[" * 5000),
        ("jwks", {}),
        ("jwks", {"keys": None}),
        ("jwks", {"keys": "abc"}),
        ("jwks", []),
        ("jwks", b"x" * (MAX_ANSWER_BYTES + 1)),
    ],
)
async def test_an_issuer_that_does_not_answer_rightly_is_doubt(idp: Idp, name: str, value: object) -> None:
    assert await idp.people().judge(idp.token(), NOW)
    setattr(idp, name, value)
    with pytest.raises(Unavailable):
        await idp.people().judge(idp.token(), NOW)


@pytest.mark.parametrize(
    "odd",
    [
        "text",
        None,
        {},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "o"},
        {"kty": "RSA", "kid": "x", "n": 1, "e": "AQAB"},
        {"kty": "EC", "crv": "P-999", "kid": "x", "x": "", "y": ""},
        {"kty": "OKP", "kid": "x"},
        jwk(RSA, "enc", "RSA-OAEP-256"),
        jwk(RSA, "enc", None, use="enc"),
    ],
)
async def test_a_key_that_is_not_understood_does_not_spoil_the_others(idp: Idp, odd: object) -> None:
    idp.keys.insert(0, odd)
    assert await idp.people().judge(idp.token(), NOW)


async def test_a_key_without_a_name_verifies_a_token_without_one(idp: Idp) -> None:
    idp.keys = [jwk(P256, None)]
    people = idp.people()
    assert await people.judge(idp.token(kid=None), NOW)
    await refused(people, idp.token(kid="k1"))


# --- algorithms


async def test_only_pinned_algorithms_are_taken(idp: Idp) -> None:
    token = idp.token(RSA, "RS256", "r1")
    assert await idp.people().judge(token, NOW)
    assert "algorithm" in await refused(idp.people(algorithms=("ES256",)), token)


async def test_a_key_of_an_algorithm_that_is_not_pinned_is_not_used_under_another_name(idp: Idp) -> None:
    people = idp.people(algorithms=("ES256",))
    assert await people.judge(idp.token(), NOW)
    claims = jwt.decode(idp.token(), options={"verify_signature": False})
    assert await refused(people, forged({"alg": "ES256", "kid": "r1"}, claims, b"x"))


@pytest.mark.parametrize(("alg", "kid"), [("ES256", "r1"), ("RS256", "k1")])
async def test_an_algorithm_that_is_not_its_keys_is_a_plain_no(idp: Idp, alg: str, kid: str) -> None:
    people = idp.people()
    assert await people.judge(idp.token(), NOW)
    claims = jwt.decode(idp.token(), options={"verify_signature": False})
    assert "not its key's" in await refused(people, forged({"alg": alg, "kid": kid}, claims, b"x"))


async def test_no_algorithm_and_a_secret_made_of_the_public_key_are_refused(idp: Idp) -> None:
    people = idp.people()
    assert await people.judge(idp.token(), NOW)
    claims = jwt.decode(idp.token(), options={"verify_signature": False})
    pem = P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for token in (
        forged({"alg": "none", "kid": "k1"}, claims),
        forged({"alg": "None", "kid": "k1"}, claims),
        forged({"kid": "k1"}, claims),
        forged({"alg": "HS256", "kid": "k1"}, claims, pem),
        forged({"alg": "ES256", "kid": "k1"}, claims),
        forged({"alg": "ES256", "kid": "k1", "b64": False, "crit": ["b64"]}, claims),
        forged({"alg": ["ES256"], "kid": "k1"}, claims),
        forged({"alg": "ES256", "kid": 7}, claims),
    ):
        await refused(people, token)


async def test_a_key_that_the_token_brings_along_is_not_looked_at(idp: Idp) -> None:
    people = idp.people()
    own = jwt.encode(
        {**jwt.decode(idp.token(), options={"verify_signature": False})},
        P256_NEXT,
        algorithm="ES256",
        headers={"kid": "k1", "jwk": jwk(P256_NEXT, "k1"), "jku": "https://evil.example/keys"},
    )
    assert await people.judge(idp.token(), NOW)
    await refused(people, own)
    assert "/keys" in idp.asked


# --- claims


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": URL + "/"}, "issuer"),
        ({"sub": ...}, "claims"),
        ({"sub": ""}, "sub"),
        ({"aud": ...}, "claims"),
        ({"aud": []}, "not one audience"),
        ({"aud": [CLIENT, "other"]}, "no azp"),
        ({"aud": [CLIENT, 7]}, ""),
        ({"aud": {"chat": 1}}, ""),
        ({"aud": [CLIENT], "azp": "other"}, "azp"),
        ({"azp": "other"}, "azp"),
        ({"azp": 7}, "azp"),
        ({"exp": ...}, "claims"),
        ({"exp": int(NOW) - 5}, "expired"),
        ({"exp": True}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"iat": ...}, "claims"),
        ({"iat": int(NOW) + 6}, "not valid yet"),
        ({"iat": float("nan")}, "iat"),
        ({"nbf": int(NOW) + 6}, "not valid yet"),
        ({"nbf": "x"}, ""),
        ({"auth_time": ...}, "max_age"),
        ({"auth_time": None}, "max_age"),
        ({"auth_time": "yesterday"}, "auth_time"),
        ({"auth_time": True}, "auth_time"),
        ({"auth_time": float("nan")}, "auth_time"),
        ({"auth_time": -5}, "auth_time"),
        ({"auth_time": int(NOW) + 6}, "future"),
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(idp: Idp, claims: dict[str, object], says: str) -> None:
    people = idp.people()
    assert await people.judge(idp.token(), NOW)
    assert says in await refused(people, idp.token(**claims))


@pytest.mark.parametrize(
    ("claims", "clients"),
    [
        ({"aud": [CLIENT]}, (CLIENT,)),
        ({"azp": CLIENT}, (CLIENT,)),
        ({"aud": ["api", CLIENT], "azp": CLIENT}, (CLIENT,)),
        ({"aud": [CLIENT, "api"], "azp": "api"}, ("api",)),
        ({"nonce": ..., "nbf": int(NOW)}, (CLIENT,)),
        ({"nonce": 7, "iat": int(NOW) + 4, "exp": int(NOW) - 4}, (CLIENT,)),
    ],
)
async def test_the_client_is_the_one_that_asked_for_the_token(
    idp: Idp, claims: dict[str, object], clients: tuple[str, ...]
) -> None:
    proof = await idp.people().judge(idp.token(**claims), NOW)
    assert proof.clients == clients


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "é.é.é",
        "\ud800",
        forged({"alg": "ES256", "kid": "k1"}, [1]),
        forged({"alg": "ES256", "kid": "k1"}, b"[" * 8000),
        forged({"alg": "ES256", "kid": "k1"}, b"not json"),
        forged({"alg": "ES256", "kid": "k1"}, {"iss": [URL]}),
        forged({"alg": "ES256", "kid": "k1"}, {}),
    ],
)
async def test_what_is_no_token_is_refused_before_anything_is_fetched(idp: Idp, token: str) -> None:
    await refused(idp.people(), token)
    assert idp.asked == []


async def test_a_huge_token_is_refused_before_it_is_looked_at(idp: Idp) -> None:
    assert "too large" in await refused(idp.people(), "x" * (MAX_TOKEN_BYTES + 1))
