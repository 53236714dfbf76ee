"""SPIFFE bundles: the public keys by which one trust domain's SVIDs are verified.

Source: SPIFFE_Trust_Domain_and_Bundle.md section 4, X509-SVID.md section 6, JWT-SVID.md section 6. What is
not understood is left out; a document that is broken is refused whole. An empty set of keys is a valid bundle
and means: trust nobody of that domain.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, cast

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt import PyJWK, PyJWTError

from stepwrit.spiffe_id import SCHEME, check_trust_domain
from stepwrit.x509svid import load_authority

MAX_BUNDLE_BYTES: Final = 1_048_576
MAX_KEYS: Final = 1_000
MAX_SEQUENCE: Final = 2**64 - 1
MIN_RSA_BITS: Final = 2_048
_PRIVATE: Final = frozenset({"d", "k", "p", "q", "dp", "dq", "qi", "oth"})
_CURVE_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_JWT_USE: Final = "jwt-svid"
_DEFAULT_REFRESH_S: Final = 300


class BundleRefused(ValueError):  # noqa: N818  reads as a verdict
    """Not a SPIFFE bundle. The message says why and never repeats the document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtKey:
    """One JWT authority. `algorithms`: what it may have signed with, by its type, curve and `alg`."""

    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = field(repr=False)
    algorithms: frozenset[str]


JwtAuthorities = Mapping[str, JwtKey]
"""Key id -> key, of one trust domain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeBundle:
    """What a trust domain publishes.

    x509: CA certificates, DER. sequence: grows with each change, or None. refresh_s: how often to ask again.
    """

    trust_domain: str
    x509: tuple[bytes, ...] = field(repr=False)
    jwt: JwtAuthorities = field(repr=False)
    sequence: int | None
    refresh_s: int


def parse_bundle(raw: bytes, trust_domain: str) -> SpiffeBundle:
    """The bundle document of `trust_domain`. Raises BundleRefused."""
    return _bundle(_object(_parsed(raw), "the bundle"), _domain(trust_domain))


def parse_jwt_authorities(raw: bytes) -> JwtAuthorities:
    """The JWT authorities of a JWK set, as the Workload API hands it out. Raises BundleRefused.

    The set holds nothing else (SPIFFE_Workload_API.md section 6.2.2), and SPIRE leaves `use` out of it: what
    does not say another use is an authority.
    """
    keys = _keys(_object(_parsed(raw), "the bundle"))
    return _jwt_authorities([{"use": _JWT_USE, **jwk} for jwk in keys])


def parse_bundle_map(raw: bytes) -> Mapping[str, SpiffeBundle]:
    """A bundle map (SPIFFE_Trust_Domain_and_Bundle.md section 4.4). A domain named twice refuses the map.

    Raises BundleRefused.
    """
    named = _object(_object(_parsed(raw), "the bundle map").get("trust_domains"), "trust_domains")
    return MappingProxyType({_name(name): _bundle(_object(doc, name), name) for name, doc in named.items()})


def _parsed(raw: bytes) -> object:
    if len(raw) > MAX_BUNDLE_BYTES:
        raise BundleRefused(f"larger than {MAX_BUNDLE_BYTES} bytes")
    try:  # not our strict JSON: a sequence number may be any 64-bit integer
        return json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError) as bad:
        raise BundleRefused("not JSON with each member named once") from bad


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a member is named twice")
    return made


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BundleRefused(f"{what[:255]}: not an object")
    return cast("Mapping[str, object]", value)


def _domain(name_or_id: str) -> str:
    return _name(name_or_id.removeprefix(SCHEME))


def _name(name: str) -> str:
    try:
        return check_trust_domain(name)
    except ValueError as bad:
        raise BundleRefused(str(bad)) from bad


def _bundle(doc: Mapping[str, object], trust_domain: str) -> SpiffeBundle:
    keys = _keys(doc)
    return SpiffeBundle(
        trust_domain=trust_domain,
        x509=_x509_authorities(keys),
        jwt=_jwt_authorities(keys),
        sequence=_number(doc, "spiffe_sequence"),
        refresh_s=_number(doc, "spiffe_refresh_hint") or _DEFAULT_REFRESH_S,
    )


def _number(doc: Mapping[str, object], name: str) -> int | None:
    value = doc.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MAX_SEQUENCE:
        raise BundleRefused(f"{name}: not a whole number of 64 bits")
    return value


def _keys(doc: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    listed = doc.get("keys")
    if not isinstance(listed, list) or len(cast("list[object]", listed)) > MAX_KEYS:
        raise BundleRefused("keys: missing, not an array, or too many")
    return [_object(each, "a key") for each in cast("list[object]", listed)]


def _x509_authorities(keys: Sequence[Mapping[str, object]]) -> tuple[bytes, ...]:
    """Only the first value of `x5c` counts; an entry without one is left out (X509-SVID.md section 6.2)."""
    found: list[bytes] = []
    for jwk in keys:
        chain = jwk.get("x5c")
        if jwk.get("use") == "x509-svid" and isinstance(chain, list) and chain:
            found.append(_certificate(cast("list[object]", chain)[0]))
    return tuple(found)


def _certificate(encoded: object) -> bytes:
    try:
        der = base64.b64decode(str(encoded), validate=True)
        load_authority(der)
    except ValueError as bad:
        raise BundleRefused("x5c: not the certificate of a CA") from bad
    return der


def _jwt_authorities(keys: Sequence[Mapping[str, object]]) -> JwtAuthorities:
    """Keys for JWT-SVIDs alone; a key id that stands twice names nobody."""
    named = [(jwk.get("kid"), jwk) for jwk in keys if jwk.get("use") == _JWT_USE]
    times = Counter(kid for kid, _ in named if isinstance(kid, str))
    found = {
        kid: key
        for kid, jwk in named
        if isinstance(kid, str) and kid and times[kid] == 1 and (key := _jwt_key(jwk)) is not None
    }
    return MappingProxyType(found)


def _jwt_key(jwk: Mapping[str, object]) -> JwtKey | None:
    if jwk.get("kty") not in ("EC", "RSA") or not _PRIVATE.isdisjoint(jwk):
        return None
    try:
        public = PyJWK({name: value for name, value in jwk.items() if name != "alg"}).key
    except (PyJWTError, ValueError, TypeError):
        return None
    fits = _algorithms(public)
    named = jwk.get("alg")
    fits = fits if named is None else fits & {str(named)}
    return JwtKey(public=public, algorithms=fits) if fits else None


def _algorithms(public: object) -> frozenset[str]:
    match public:
        case ec.EllipticCurvePublicKey():
            named = _CURVE_ALGORITHMS.get(public.curve.name)
            return frozenset() if named is None else frozenset({named})
        case rsa.RSAPublicKey():
            return _RSA_ALGORITHMS if public.key_size >= MIN_RSA_BITS else frozenset()
        case _:
            return frozenset()
