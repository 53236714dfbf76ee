"""Compact JWS (RFC 7515) with ES256 only (RFC 7518 section 3.4), over `cryptography`.

Own code because it is on every hot path. It is small because it can do one thing: there is no algorithm to
choose, and a header holds `alg`, `typ` and either `kid` or `jwk`, nothing else. So `crit`, `b64`, `jku` and
`x5u` cannot mean anything, and `typ` (RFC 8725 section 3.11) is a wall between our tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from stepwrit.digest import DigestError, JsonValue, b64u, canonical, parse_json, thumbprint, unb64u

MAX_TOKEN_BYTES: Final = 16_384
MAX_HEADER_CHARS: Final = 2_048
_CURVE: Final = ec.SECP256R1()
_ES256: Final = ec.ECDSA(SHA256())
_WITH_KID: Final = frozenset({"alg", "kid", "typ"})
_WITH_JWK: Final = frozenset({"alg", "jwk", "typ"})
_PRIVATE: Final = frozenset({"d", "k", "p", "q", "dp", "dq", "qi", "oth"})

Reason = Literal[
    "malformed", "too_large", "type", "algorithm", "key", "unknown_key", "signature",
    "claims", "version", "issuer", "audience", "life", "expired", "not_yet_valid",
    "request", "token", "nonce", "binding", "arguments", "round",
]  # fmt: skip


class TokenRefused(ValueError):  # noqa: N818  reads as a verdict
    """A token or proof that does not hold. `reason`: one stable word; the text never repeats the token."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Final[Reason] = reason


class UnknownKey(TokenRefused):
    """The token names a key that is not among the given ones; a fresher key set may hold it."""

    def __init__(self) -> None:
        super().__init__("unknown_key", "no such key id in this key set")


# --- keys


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyKey:
    """A P-256 public key. Two are equal when their RFC 7638 thumbprints are."""

    thumbprint: str
    _public: ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    @staticmethod
    def from_jwk(jwk: Mapping[str, object]) -> VerifyKey:
        """The key of a public JWK (RFC 7517); unknown members are ignored.

        Raises:
            TokenRefused: `key`: not EC P-256, not on the curve, for another use, or it holds a private part.
        """
        if not _PRIVATE.isdisjoint(jwk):
            raise TokenRefused("key", "the JWK holds a private key")
        if jwk.get("alg", "ES256") != "ES256" or jwk.get("use", "sig") != "sig":
            raise TokenRefused("key", "the JWK is not for ES256 signatures")
        x, y = jwk.get("x"), jwk.get("y")
        if (
            jwk.get("kty") != "EC"
            or jwk.get("crv") != "P-256"
            or not isinstance(x, str)
            or not isinstance(y, str)
        ):
            raise TokenRefused("key", "not an EC P-256 key")
        return _load(x, y)

    @staticmethod
    def from_public_key(public: ec.EllipticCurvePublicKey) -> VerifyKey:
        """The same for a key of `cryptography`. Raises TokenRefused (`key`) for another curve."""
        return VerifyKey.from_jwk(_jwk(public))

    @property
    def jwk(self) -> dict[str, str]:
        """The public JWK with its four required members."""
        return _jwk(self._public)

    def check(self, signing_input: bytes, signature: bytes) -> None:
        """Pass if `signature` (r ‖ s, 64 bytes) is this key's over `signing_input`.

        Raises:
            TokenRefused: `signature`. Both s and n - s are good, as in RFC 7518: never use it as an id.
        """
        if len(signature) != 64:
            raise TokenRefused("signature", "an ES256 signature is 64 bytes")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        try:
            self._public.verify(encode_dss_signature(r, s), signing_input, _ES256)
        except InvalidSignature:
            raise TokenRefused("signature", "the signature does not hold") from None


@lru_cache(maxsize=1024)  # building a key costs several microseconds; only public parts are kept
def _load(x: str, y: str) -> VerifyKey:
    try:
        name = thumbprint({"kty": "EC", "crv": "P-256", "x": x, "y": y})
        point = b"\x04" + unb64u(x) + unb64u(y)
        return VerifyKey(thumbprint=name, _public=ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point))
    except ValueError as bad:
        raise TokenRefused("key", str(bad) if isinstance(bad, DigestError) else "not on the curve") from None


def _jwk(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    if not isinstance(public.curve, ec.SECP256R1):
        raise TokenRefused("key", "not a P-256 key")
    numbers = public.public_numbers()
    x, y = b64u(numbers.x.to_bytes(32, "big")), b64u(numbers.y.to_bytes(32, "big"))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


class SigningKey:
    """A P-256 private key that signs compact JWS. It has no way out of the process through this class."""

    __slots__ = ("_heads", "_private", "kid", "verify_key")

    def __init__(self, private: ec.EllipticCurvePrivateKey, *, kid: str | None = None) -> None:
        self._private: Final = private
        self._heads: Final[dict[tuple[str, bool], str]] = {}
        self.verify_key: Final = VerifyKey.from_public_key(private.public_key())
        self.kid: Final = kid or self.verify_key.thumbprint

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r})"

    @staticmethod
    def generate(*, kid: str | None = None) -> SigningKey:
        """A new key from the operating system's randomness; `kid` is the thumbprint unless given."""
        return SigningKey(ec.generate_private_key(_CURVE), kid=kid)

    @property
    def thumbprint(self) -> str:
        """RFC 7638 thumbprint of the public key; the `jkt` of RFC 9449."""
        return self.verify_key.thumbprint

    @property
    def public_jwk(self) -> dict[str, str]:
        """The public JWK with its four required members."""
        return self.verify_key.jwk

    @property
    def published_jwk(self) -> dict[str, str]:
        """The public JWK as a JWKS shows it: with `kid`, `alg` and `use`."""
        return {**self.public_jwk, "kid": self.kid, "alg": "ES256", "use": "sig"}

    def sign(self, typ: str, claims: Mapping[str, object], *, embed_jwk: bool = False) -> str:
        """A compact JWS whose header names the key by `kid`, or holds it when `embed_jwk`.

        Raises:
            DigestError: the claims are not JSON of one meaning.
        """
        return self._signed(typ, canonical(claims), embed_jwk=embed_jwk)

    def sign_text(self, typ: str, claims: str) -> str:
        """A compact JWS over claims that are JSON text already, byte for byte."""
        return self._signed(typ, claims.encode(), embed_jwk=False)

    def _signed(self, typ: str, claims: bytes, *, embed_jwk: bool) -> str:
        head = self._heads.get((typ, embed_jwk)) or self._head(typ, embed_jwk=embed_jwk)
        text = f"{head}.{b64u(claims)}"
        r, s = decode_dss_signature(self._private.sign(text.encode(), _ES256))
        return f"{text}.{b64u(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _head(self, typ: str, *, embed_jwk: bool) -> str:
        key = {"jwk": self.public_jwk} if embed_jwk else {"kid": self.kid}
        head = b64u(canonical({"alg": "ES256", "typ": typ, **key}))
        self._heads[typ, embed_jwk] = head
        return head


# --- tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A JWS header of ours: always ES256, and exactly one of `kid` and `key` (from `jwk`)."""

    typ: str
    kid: str | None
    key: VerifyKey | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """A well-formed compact JWS whose signature nobody has checked yet: believe nothing of it."""

    header: Header
    claims_bytes: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def split(unverified: str) -> Unverified:
    """Take a compact JWS apart, strictly.

    Raises:
        TokenRefused: `too_large` (over 16 KiB), `malformed` (parts, base64url, JSON, header members),
            `algorithm` (not ES256) or `key` (an unusable `jwk`).
    """
    if len(unverified) > MAX_TOKEN_BYTES:
        raise TokenRefused("too_large", f"over {MAX_TOKEN_BYTES} bytes")
    parts = unverified.split(".", 3)
    if len(parts) != 3:
        raise TokenRefused("malformed", "not three parts")
    head, payload, signature = parts
    header = _read_header(head)
    try:
        return Unverified(
            header=header,
            claims_bytes=unb64u(payload),
            signing_input=f"{head}.{payload}".encode("ascii"),
            signature=unb64u(signature),
        )
    except ValueError:
        raise TokenRefused("malformed", "a part is not base64url") from None


@lru_cache(maxsize=1024)  # one sender's header is the same on every token
def _read_header(head: str) -> Header:
    if len(head) > MAX_HEADER_CHARS:
        raise TokenRefused("too_large", f"the header is over {MAX_HEADER_CHARS} characters")
    members = _json_object(_decoded(head))
    if members.keys() != _WITH_KID and members.keys() != _WITH_JWK:
        raise TokenRefused("malformed", "a header holds alg, typ and one of kid and jwk, nothing else")
    if members["alg"] != "ES256":
        raise TokenRefused("algorithm", "only ES256")
    typ, kid, jwk = members["typ"], members.get("kid"), members.get("jwk")
    if not isinstance(typ, str) or not (isinstance(kid, str) or isinstance(jwk, dict)):
        raise TokenRefused("malformed", "a header member has the wrong type")
    key = VerifyKey.from_jwk(jwk) if isinstance(jwk, dict) else None
    return Header(typ=typ, kid=kid if isinstance(kid, str) else None, key=key)


def _decoded(part: str) -> bytes:
    try:
        return unb64u(part)
    except DigestError:
        raise TokenRefused("malformed", "a part is not base64url") from None


def _json_object(raw: bytes) -> dict[str, JsonValue]:
    try:
        value = parse_json(raw)
    except DigestError:
        raise TokenRefused("malformed", "a part is not JSON of one meaning") from None
    if not isinstance(value, dict):
        raise TokenRefused("malformed", "a part is not a JSON object")
    return value


def verify(unverified: Unverified, key: VerifyKey, *, typ: str) -> dict[str, JsonValue]:
    """The claims, once type and signature hold. Claims are the caller's to judge.

    Raises:
        TokenRefused: `type` (not exactly `typ`), `signature`, or `malformed` (the claims are no JSON object).
    """
    if unverified.header.typ != typ:
        raise TokenRefused("type", f"expected {typ}")
    key.check(unverified.signing_input, unverified.signature)
    return _json_object(unverified.claims_bytes)
