"""A broker's word for its own signing key: a JWS by the key of its X.509-SVID, its chain in `x5c` (RFC 7515).

Another broker believes it for as long as the chain verifies against the bundle of its own trust domain, the
SPIFFE ID is a broker's, and the statement has not ended. The `kid` is made of the key, so no statement can
give another broker's `kid` to another key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast, get_args

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from stepwrit.errors import IdentityUnavailable
from stepwrit.jws import TokenRefused, VerifyKey
from stepwrit.wire import LEEWAY_S
from stepwrit.x509svid import SvidRefused, VerifiedSvid, verify_x509_svid
from stepwrit_broker.attest.bundles import BundleSource, IdentitySource
from stepwrit_broker.core.errors import Unavailable, Unproven
from stepwrit_broker.core.workload import SpiffeId
from stepwrit_broker.ports_fleet import STATEMENT_MAX, KeyUse, OwnKey, Posted, Stated

TYP: Final = "stepwrit-broker-key+jwt"
CHAIN_MAX: Final = 8
LIFE_MAX_S: Final = 4 * 3600.0  # of a key, from its first signature to its last token's end
HELD_MAX: Final = 4_096  # statements, as many as are read
_LATEST: Final = 2**53  # what a double still counts by ones
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class _Signed(NamedTuple):
    """A statement whose signature verified by its leaf's key."""

    chain: tuple[bytes, list[bytes]]
    claims: Mapping[str, Any]


class SvidKeyStatements:
    """The `KeyStatements` port. issuer: whom all brokers of the fleet speak for. is_broker: whether a SPIFFE
    ID of our trust domain is one of its brokers, and nothing stops it.
    """

    def __init__(
        self,
        identity: IdentitySource,
        bundles: BundleSource,
        *,
        home: str,
        issuer: str,
        is_broker: Callable[[SpiffeId], bool],
    ) -> None:
        self._identity, self._bundles = identity, bundles
        self._home, self._issuer, self._is_broker = home, issuer, is_broker
        self._chains: dict[tuple[int, bytes], VerifiedSvid] = {}
        self._made: dict[str, Posted] = {}
        self._held: OrderedDict[str, _Signed] = OrderedDict()

    def state(self, key: OwnKey, now: float) -> Posted:
        """As the port has it; it ends with our SVID at the latest, and is to be made anew before that."""
        try:
            own = self._identity.snapshot()
        except IdentityUnavailable as none:
            raise Unavailable(
                "unavailable", "the broker has no identity of its own", rule="identity"
            ) from none
        until = min(key.until, own.expires_at)
        serial = hashlib.sha256(own.chain[0]).hexdigest()[:16]
        made = self._made.get(f"{key.kid}.{serial}")
        if made is not None and made.until == float(int(until)):
            return made
        claims = {
            "v": 1, "iss": own.spiffe_id, "aud": self._issuer, "use": key.use, "jwk": dict(key.jwk),
            "iat": int(now), "nbf": int(key.since), "exp": int(until),
        }  # fmt: skip
        head = {"typ": TYP, "x5c": [base64.b64encode(each).decode() for each in own.chain]}
        private = cast("Any", own.private_key)
        try:
            algorithm = _algorithm(private.public_key())
        except Unproven as odd:
            raise Unavailable(
                "unavailable", "our SVID has a key of a sort that signs no statement", rule="identity"
            ) from odd
        text = jwt.encode(claims, private, algorithm=algorithm, headers=head)
        made = Posted(id=f"{key.kid}.{serial}", text=text, until=float(int(until)))
        self._made = {name: each for name, each in self._made.items() if each.until > now} | {made.id: made}
        return made

    def judge(self, posted: Posted, now: float) -> Stated:
        """As the port has it."""
        if len(posted.text) > STATEMENT_MAX:
            raise _no("size")
        signed = self._held.get(posted.text)
        if signed is None:
            signed = self._first(posted.text, now)
        svid, claims = self._verified(*signed.chain, now), signed.claims
        if claims.get("iss") != svid.spiffe_id or claims.get("aud") != self._issuer or claims.get("v") != 1:
            raise _no("iss")
        if not self._is_broker(SpiffeId(svid.spiffe_id)):
            raise _no("role")
        return _stated(claims, svid, now)

    def _first(self, unverified: str, now: float) -> _Signed:
        """What a signature covers does not change; what it is worth is judged each time."""
        head = _head(unverified)
        leaf, *others = _chain(head)
        self._verified(leaf, others, now)  # nobody's statements are kept but those of our trust domain
        signed = self._held[unverified] = _Signed((leaf, others), _signed(unverified, leaf, head))
        if len(self._held) > HELD_MAX:
            self._held.popitem(last=False)
        return signed

    def _verified(self, leaf: bytes, others: list[bytes], now: float) -> VerifiedSvid:
        """By the bundle of our own trust domain and no other; once for each chain and bundle."""
        bundles = self._bundles.current(now)
        name = (bundles.generation, hashlib.sha256(b"".join((leaf, *others))).digest())
        known = self._chains.get(name)
        if known is not None and now < known.expires_at:
            return known
        own = {self._home: bundles.by_domain.get(self._home, ())}
        try:
            svid = verify_x509_svid(leaf, others, own, now)
        except SvidRefused as refused:
            raise _no(f"x509:{refused.reason}") from refused
        self._chains = {at: each for at, each in self._chains.items() if at[0] == bundles.generation}
        self._chains[name] = svid
        return svid


def _algorithm(public: object) -> str:
    """The one algorithm of a key: what a header says chooses nothing."""
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES:
        return _CURVES[public.curve.name]
    if isinstance(public, rsa.RSAPublicKey):
        return "RS256"
    raise _no("alg")


def _head(unverified: str) -> Mapping[str, Any]:
    try:
        head = jwt.get_unverified_header(unverified)
    except jwt.PyJWTError as bad:
        raise _no("shape") from bad
    if head.get("typ") != TYP or not head.keys() <= {"typ", "alg", "x5c"}:
        raise _no("typ")
    return head


def _chain(head: Mapping[str, Any]) -> list[bytes]:
    """RFC 7515 section 4.1.6: base64 (not base64url) of DER, the leaf first."""
    shown = head.get("x5c")
    if not isinstance(shown, list) or not 0 < len(cast("list[object]", shown)) <= CHAIN_MAX:
        raise _no("x5c")
    try:
        return [base64.b64decode(each, validate=True) for each in cast("list[str]", shown)]
    except (binascii.Error, TypeError, ValueError) as bad:
        raise _no("x5c") from bad


def _signed(unverified: str, leaf: bytes, head: Mapping[str, Any]) -> Mapping[str, Any]:
    """The claims, by the leaf's key. Times are checked against our own clock, not the library's."""
    public = x509.load_der_x509_certificate(leaf).public_key()
    algorithm = _algorithm(public)
    if head.get("alg") != algorithm:
        raise _no("alg")
    try:
        claims: Mapping[str, Any] = jwt.decode(
            unverified,
            cast("Any", public),
            algorithms=[algorithm],
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
        )
    except jwt.PyJWTError as bad:
        raise _no("signature") from bad
    return claims


def _stated(claims: Mapping[str, Any], svid: VerifiedSvid, now: float) -> Stated:
    since, until, use, jwk = (claims.get(name) for name in ("nbf", "exp", "use", "jwk"))
    if type(since) is not int or type(until) is not int or not 0 < until - since <= LIFE_MAX_S:
        raise _no("life")
    if until > _LATEST:  # no double holds it
        raise _no("life")
    end = min(float(until), svid.expires_at)
    if end <= now or since > now + LIFE_MAX_S + LEEWAY_S:
        raise _no("expired")
    if use not in get_args(KeyUse) or not isinstance(jwk, Mapping):
        raise _no("use")
    try:
        key = VerifyKey.from_jwk(cast("Mapping[str, object]", jwk))
    except TokenRefused as bad:
        raise _no("jwk") from bad
    kid = kid_of(cast("KeyUse", use), key)
    if cast("Mapping[str, object]", jwk).get("kid") != kid:
        raise _no("kid")
    shown = {**key.jwk, "kid": kid, "alg": "ES256", "use": "sig"}
    return Stated(broker=SpiffeId(svid.spiffe_id), use=cast("KeyUse", use), kid=kid, jwk=shown, until=end)


def kid_of(use: KeyUse, key: VerifyKey) -> str:
    """As `keys.keyring` names its keys."""
    return f"{use}-{key.thumbprint[:16]}"


def _no(rule: str) -> Unproven:
    return Unproven("invalid_token", "the statement of a broker's key does not hold", rule=rule)
