"""JWT cases. Tokens are put together by hand: no library signs what is wrong on purpose."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms
from tests.refusals.case import AGENT, AUDIENCE, DOMAIN, EMPTY, MAX_LIFE_S, NOW, PARTNER, UNKNOWN, Case

from stepwrit.wire import LEEWAY_S

_ALGORITHMS = get_default_algorithms()
KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed": ed25519.Ed25519PrivateKey.generate,
    "x509-use": lambda: ec.generate_private_key(ec.SECP256R1()),
    "no-use": lambda: ec.generate_private_key(ec.SECP256R1()),
    "twice": lambda: ec.generate_private_key(ec.SECP256R1()),
    "weak": lambda: rsa.generate_private_key(65537, 1024),
}
FITS = {
    "p256": ("ES256",),
    "p384": ("ES384",),
    "p521": ("ES512",),
    "rsa": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
}
_OF = {"p256": "ES256", "p384": "ES384", "p521": "ES512", "rsa": "RS256", "ed": "EdDSA", "weak": "RS256"}
DROP: Any = object()


class Keys:
    """Key ids of our domain, published for JWT-SVIDs unless their name says otherwise, and the partner's."""

    def __init__(self) -> None:
        self.ours = {name: make() for name, make in KEYS.items()}
        self.partner, self.partner384 = KEYS["p256"](), KEYS["p384"]()

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """Domain -> JWKs, with what a publisher may have among them and a verifier must not use."""
        ours = [_jwk(name, key) for name, key in self.ours.items()]
        by_id = {jwk["kid"]: jwk for jwk in ours}
        by_id["x509-use"]["use"] = "x509-svid"
        del by_id["no-use"]["use"]
        again = {**_jwk("twice", self.ours["p256"])}
        strange = {"kty": "AKP", "use": "jwt-svid", "kid": "strange"}
        return {DOMAIN: [*ours, again, strange], PARTNER: [_jwk("partner", self.partner)], EMPTY: []}


def _jwk(kid: str, key: Any) -> dict[str, Any]:
    alg = _ALGORITHMS[_of(key)]
    members = json.loads(alg.to_jwk(key.public_key()))
    return {**{k: v for k, v in members.items() if k != "key_ops"}, "use": "jwt-svid", "kid": kid}


def _of(key: Any) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {256: "ES256", 384: "ES384", 521: "ES512"}[key.curve.key_size]
    return "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA"


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token, with changes; DROP leaves one out."""
    usual = {"sub": AGENT, "aud": [AUDIENCE], "iat": int(NOW) - 1, "exp": int(NOW) + 240, "jti": "j"}
    return _kept({**usual, **changes})


def header(kid: str, alg: str, **more: Any) -> dict[str, Any]:
    """Of a good token, and more."""
    return {"alg": alg, "kid": kid, **more}


def _kept(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not DROP}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(head: Mapping[str, Any] | bytes, body: Mapping[str, Any] | bytes, key: Any, alg: str) -> str:
    """A compact JWS. Bytes are taken as they are; `alg` signs, whatever the header says."""
    text = ".".join(
        b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (head, body)
    )
    algorithm = _ALGORITHMS[alg]
    return f"{text}.{b64(algorithm.sign(text.encode(), algorithm.prepare_key(key)))}"


class Maker:
    """Makes tokens of our domain's agent, by one of its keys."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def token(
        self, kid: str = "p256", alg: str | None = None, head: Mapping[str, Any] = {}, **change: Any
    ) -> str:
        """Signed by the key `kid` with `alg` (else its usual one); `head` and claims are changes."""
        key = self.keys.ours[kid]
        alg = alg or _of(key)
        return sign(_kept({"alg": alg, "kid": kid, **head}), claims(**change), key, alg)


def cases(keys: Keys) -> list[Case]:
    """All of the family."""
    make = Maker(keys)
    groups = (_algorithms, _headers, _claims, _subjects, _foreign, _shapes)
    return [*_valid(make), *(case for group in groups for case in group(make))]


def _case(name: str, token: str, **more: Any) -> Case:
    return Case(name=f"jwt/{name}", family="jwt", reading="token", input=token, **more)


def _no(name: str, row: str, code: str, token: str, twin: str = "plain") -> Case:
    return _case(name, token, row=row, code=code, twin=f"jwt/{twin}")


def _valid(make: Maker) -> list[Case]:
    token = make.token
    partner = sign(
        header("partner", "ES256"), claims(sub=f"spiffe://{PARTNER}/x"), make.keys.partner, "ES256"
    )
    return [
        _case("plain", token()),
        *(_case(alg.lower(), token(kid, alg)) for kid, algs in FITS.items() for alg in algs),
        _case("typ-jwt", token(head={"typ": "JWT"})),
        _case("typ-jose", token(head={"typ": "JOSE"})),
        _case("aud-string", token(aud=AUDIENCE)),
        _case("partner", partner),
        _case("not-before-passed", token(nbf=int(NOW) - 5)),
        _case("clock-ahead", token(iat=int(NOW) + LEEWAY_S, nbf=int(NOW) + LEEWAY_S)),
        _case("last-second", token(exp=int(NOW) + 1)),
        _case("longest-life", token(iat=int(NOW), exp=int(NOW + MAX_LIFE_S))),
        _case("whole-alphabet", token(sub="spiffe://a.test/A-z_0.9/..x/a")),
        _case("longest-id", token(sub="spiffe://a.test/" + "x" * 2032)),
    ]


def _algorithms(make: Maker) -> list[Case]:
    row, key, body = "jwt-algorithm", make.keys.ours["p256"], claims()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = sign(header("p256", "none"), body, key, "ES256")
    return [
        _no("none", row, "algorithm", text),
        _no("none-unsigned", row, "malformed", text.rpartition(".")[0] + "."),
        *(_no(f"{alg.lower()}-by-public-key", row, "algorithm", _mac(alg, public, body)) for alg in _HASHES),
        _no("eddsa", row, "algorithm", make.token("ed")),
        _no("es256k", row, "algorithm", sign(header("p256", "ES256K"), body, key, "ES256")),
        _no("rs256-of-ec-key", row, "algorithm", make.token("p256", "ES256", {"alg": "RS256"}), "rs256"),
        _no("es384-of-p256", row, "algorithm", make.token("p256", "ES256", {"alg": "ES384"}), "es384"),
        _no("lower-case", row, "algorithm", make.token(head={"alg": "es256"})),
        _no("missing", row, "algorithm", make.token(head={"alg": DROP})),
        _no("list", row, "algorithm", make.token(head={"alg": ["ES256"]})),
        _no("weak-rsa", row, "unknown_key", make.token("weak"), "rs256"),
    ]


_HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def _mac(alg: str, secret: bytes, body: Mapping[str, Any]) -> str:
    text = ".".join(b64(json.dumps(part).encode()) for part in (header("p256", alg), body))
    return f"{text}.{b64(hmac.new(secret, text.encode(), _HASHES[alg]).digest())}"


_TYPES: dict[str, Any] = {
    "access-token": "at+jwt",
    "workload-token": "wit+jwt",
    "transaction-token": "txntoken+jwt",
    "dpop": "dpop+jwt",
    "lower-case": "jwt",
    "empty": "",
    "number": 1,
    "null": None,
}
_EXTRA: dict[str, Any] = {
    "jku": "https://a.test/keys",
    "x5u": "https://a.test/x5u",
    "x5c": ["MIIB"],
    "x5t": "AA",
    "crit": ["exp"],
    "b64": False,
    "cty": "JWT",
    "zip": "DEF",
    "foo": 1,
}


def _headers(make: Maker) -> list[Case]:
    own = KEYS["p256"]()
    brought = sign(header("p256", "ES256", jwk=_jwk("p256", own)), claims(), own, "ES256")
    return [
        *(
            _no(f"typ-{name}", "jwt-type", "type", make.token(head={"typ": typ}), "typ-jwt")
            for name, typ in _TYPES.items()
        ),
        *(
            _no(f"header-{name}", "jwt-header", "header", make.token(head={name: v}))
            for name, v in _EXTRA.items()
        ),
        _no("header-jwk", "jwt-header", "header", brought),
        *(
            _no(f"kid-{name}", "jwt-key", "no_key_id", make.token(head={"kid": kid}))
            for name, kid in (("missing", DROP), ("empty", ""), ("number", 1), ("null", None))
        ),
        _no("kid-unknown", "jwt-key", "unknown_key", make.token(head={"kid": "nobody"})),
        _no("kid-twice-in-bundle", "jwt-key", "unknown_key", make.token("twice")),
        _no(
            "kid-of-another-key",
            "jwt-signature",
            "signature",
            sign(header("p384", "ES384"), claims(), make.keys.partner384, "ES384"),
        ),
        _no("key-of-x509-use", "key-use", "unknown_key", make.token("x509-use")),
        _no("key-without-use", "key-use", "unknown_key", make.token("no-use")),
    ]


def _claims(make: Maker) -> list[Case]:
    now, token = int(NOW), make.token
    shape: dict[str, tuple[str, dict[str, Any]]] = {
        "no-sub": ("bad_subject", {"sub": DROP}),
        "sub-number": ("bad_subject", {"sub": 1}),
        "no-aud": ("no_audience", {"aud": DROP}),
        "aud-empty": ("no_audience", {"aud": []}),
        "aud-number": ("no_audience", {"aud": [AUDIENCE, 1]}),
        "aud-null": ("no_audience", {"aud": None}),
        "no-exp": ("no_expiry", {"exp": DROP}),
        "exp-text": ("bad_time", {"exp": str(now + 60)}),
        "exp-true": ("bad_time", {"exp": True}),
        "exp-null": ("bad_time", {"exp": None}),
        "exp-huge": ("bad_time", {"exp": 2**53 - 1}),
        "nbf-text": ("bad_time", {"nbf": "0"}),
    }
    life: dict[str, tuple[str, str, dict[str, Any]]] = {
        "ended": ("expired", "last-second", {"exp": now - 1}),
        "ends-now": ("expired", "last-second", {"exp": now}),
        "ended-within-leeway": ("expired", "last-second", {"exp": now - LEEWAY_S + 1, "iat": now - 60}),
        "not-begun": ("not_yet_valid", "clock-ahead", {"nbf": now + LEEWAY_S + 1}),
        "made-in-the-future": ("not_yet_valid", "clock-ahead", {"iat": now + LEEWAY_S + 1}),
        "too-long": ("too_long_lived", "longest-life", {"iat": now, "exp": int(NOW + MAX_LIFE_S) + 1}),
        "no-iat": ("no_issued_at", "plain", {"iat": DROP}),
    }
    audience: dict[str, tuple[str, Any]] = {
        "other-service": ("audience", ["https://other.test"]),
        "longer": ("audience", [AUDIENCE + "/"]),
        "token-endpoint": ("audience", [AUDIENCE + "/oauth/token"]),
        "upper": ("audience", [AUDIENCE.upper()]),
        "several": ("many_audiences", [AUDIENCE, "https://other.test"]),
        "twice": ("many_audiences", [AUDIENCE] * 2),
    }
    return [
        *(_no(name, "jwt-claims", code, token(**change)) for name, (code, change) in shape.items()),
        *(_no(name, "life", code, token(**change), twin) for name, (code, twin, change) in life.items()),
        *(
            _no(f"aud-{name}", "jwt-audience", code, token(aud=aud), "aud-string")
            for name, (code, aud) in audience.items()
        ),
    ]


_SUBJECTS: dict[str, tuple[str, str, str, str]] = {
    "root": ("root-id", "root_path", "plain", "spiffe://a.test"),
    "root-and-slash": ("root-id", "root_path", "plain", "spiffe://a.test/"),
    "https": ("foreign-scheme", "not_spiffe", "plain", "https://a.test/agent"),
    "upper-scheme": ("foreign-scheme", "not_spiffe", "plain", "Spiffe://a.test/agent"),
    "plain-word": ("foreign-scheme", "not_spiffe", "plain", "agent"),
    "upper-domain": ("upper-domain", "bad_spiffe_id", "plain", "spiffe://A.test/agent"),
    "percent": ("odd-path", "bad_spiffe_id", "whole-alphabet", "spiffe://a.test/%61gent"),
    "dot-dot": ("odd-path", "bad_spiffe_id", "whole-alphabet", "spiffe://a.test/x/../agent"),
    "dot": ("odd-path", "bad_spiffe_id", "whole-alphabet", "spiffe://a.test/./agent"),
    "doubled-slash": ("odd-path", "bad_spiffe_id", "whole-alphabet", "spiffe://a.test//agent"),
    "slash-at-end": ("odd-path", "bad_spiffe_id", "whole-alphabet", "spiffe://a.test/agent/"),
    "not-ascii": ("odd-path", "bad_spiffe_id", "whole-alphabet", "spiffe://a.test/ag\u00e9nt"),
    "port": ("odd-domain", "bad_spiffe_id", "plain", "spiffe://a.test:80/agent"),
    "user": ("odd-domain", "bad_spiffe_id", "plain", "spiffe://me@a.test/agent"),
    "query": ("odd-domain", "bad_spiffe_id", "plain", "spiffe://a.test/agent?x"),
    "no-domain": ("odd-domain", "bad_spiffe_id", "plain", "spiffe:///agent"),
    "too-long": ("odd-domain", "bad_spiffe_id", "longest-id", "spiffe://a.test/" + "x" * 2033),
    "unknown-domain": ("unknown-domain", "unknown_trust_domain", "plain", f"spiffe://{UNKNOWN}/agent"),
    "distrusted-domain": ("empty-bundle", "empty_bundle", "plain", f"spiffe://{EMPTY}/agent"),
}


def _subjects(make: Maker) -> list[Case]:
    return [
        _no(f"sub-{name}", row, code, make.token(sub=sub), twin)
        for name, (row, code, twin, sub) in _SUBJECTS.items()
    ]


def _foreign(make: Maker) -> list[Case]:
    partner, row = make.keys.partner, "foreign-authority"
    named = sign(header("partner", "ES256"), claims(), partner, "ES256")
    renamed = sign(header("p256", "ES256"), claims(), partner, "ES256")
    theirs = make.token(sub=f"spiffe://{PARTNER}/x")
    return [
        _no("ours-by-partners-key", row, "unknown_key", named, "partner"),
        _no("ours-by-partners-key-renamed", row, "signature", renamed, "partner"),
        _no("partners-by-our-key", row, "unknown_key", theirs, "partner"),
    ]


def _shapes(make: Maker) -> list[Case]:
    good = make.token()
    head, body, signature = good.split(".")
    flat = json.dumps({"protected": head, "payload": body, "signature": signature})
    general = json.dumps({"payload": body, "signatures": [{"protected": head, "signature": signature}]})
    key, other = make.keys.ours["p256"], b64(json.dumps(claims(sub="spiffe://a.test/admin")).encode())
    twice = json.dumps(claims())[:-1] + ', "sub": "spiffe://a.test/admin"}'
    wide = json.dumps(header("p256", "ES256"))[:-1] + ', "alg": "ES256"}'
    last = b64(bytes(64))[:-1]
    row = "jwt-serialization"
    return [
        _no("flattened", row, "serialization", flat),
        _no("general", row, "serialization", general),
        _no("space-before-json", row, "serialization", " " + flat),
        _no("two-parts", row, "malformed", f"{head}.{body}"),
        _no("five-parts", row, "malformed", f"{good}.{body}.{signature}"),
        _no("empty", row, "malformed", ""),
        _no("other-payload", "jwt-signature", "signature", f"{head}.{other}.{signature}"),
        _no("other-signature", "jwt-signature", "signature", f"{head}.{body}.{b64(bytes(64))}"),
        _no("padded-signature", "jwt-signature", "malformed", f"{good}=="),
        _no(
            "stray-in-signature",
            "jwt-signature",
            "malformed",
            f"{head}.{body}.{signature[:9]}!{signature[9:]}",
        ),
        _no("trailing-bits", "jwt-signature", "malformed", f"{head}.{body}.{last}B"),
        _no(
            "der-signature",
            "jwt-signature",
            "signature",
            f"{head}.{body}.{_der_signature(key, f'{head}.{body}')}",
        ),
        _no("no-signature", "jwt-signature", "malformed", f"{head}.{body}."),
        _no(
            "member-twice",
            "malformed",
            "malformed",
            sign(header("p256", "ES256"), twice.encode(), key, "ES256"),
        ),
        _no("header-twice", "malformed", "malformed", sign(wide.encode(), claims(), key, "ES256")),
        _no("claims-list", "malformed", "malformed", sign(header("p256", "ES256"), b"[]", key, "ES256")),
        _no("claims-no-json", "malformed", "malformed", sign(header("p256", "ES256"), b"\xff", key, "ES256")),
        _no("padded-payload", "malformed", "malformed", f"{head}.{body}=.{signature}"),
        _no("too-large", "malformed", "too_large", make.token(pad="x" * 16_384)),
    ]


def _der_signature(key: Any, text: str) -> str:
    from cryptography.hazmat.primitives import hashes

    return b64(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
