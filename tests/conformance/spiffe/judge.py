"""One question to our verifiers, as JSON, with everything it is judged by; see README.md."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from stepwrit.jwtsvid import JwtSvidRefused, verify_jwt_svid
from stepwrit.spiffe_bundle import (
    BundleRefused,
    SpiffeBundle,
    parse_bundle,
    parse_bundle_map,
)
from stepwrit.spiffe_id import check_workload_id
from stepwrit.x509svid import SvidRefused, verify_x509_svid
from stepwrit_broker.core.federation import Revision, refusal

Answer = dict[str, Any]


def answer_line(line: str) -> Answer:
    """The answer to one line. What is no question is an `error`, never a refusal."""
    try:
        asked = json.loads(line)
        if not isinstance(asked, dict):
            raise TypeError("not an object")
        named = {"id": asked["id"]} if "id" in asked else {}
    except (ValueError, TypeError) as bad:
        return {"error": f"not a JSON object: {bad}"}
    try:
        return named | KINDS[asked["kind"]](asked)
    except (KeyError, TypeError, ValueError) as bad:
        return named | {"error": f"{type(bad).__name__}: {bad}"}


def _refused(reason: str, detail: str = "") -> Answer:
    return {"accepted": False, "reason": reason, **({"detail": detail} if detail else {})}


def x509(asked: Mapping[str, Any]) -> Answer:
    """`input`: PEM text, or a list of base64 DER; leaf first."""
    chain = _chain(asked["input"])
    now = float(asked["now"])
    try:
        bundles = {name: each.x509 for name, each in _bundles(asked).items()}
        found = verify_x509_svid(chain[0], chain[1:], bundles, now)
    except BundleRefused as refused:
        return _refused("bundle", str(refused))
    except SvidRefused as refused:
        return _refused(refused.reason, refused.detail)
    return {"accepted": True, "spiffe_id": found.spiffe_id, "expires_at": found.expires_at}


def jwt(asked: Mapping[str, Any]) -> Answer:
    """`input`: the token."""
    token, audience, now = str(asked["input"]), str(asked["audience"]), float(asked["now"])
    try:
        found = verify_jwt_svid(
            token,
            audience=audience,
            authorities={name: each.jwt for name, each in _bundles(asked).items()},
            now=now,
            sole_audience=bool(asked.get("sole_audience", False)),
            max_life=asked.get("max_life"),
        )
    except BundleRefused as refused:
        return _refused("bundle", str(refused))
    except JwtSvidRefused as refused:
        return _refused(refused.reason, refused.detail)
    return {"accepted": True, "spiffe_id": found.spiffe_id, "expires_at": found.expires_at}


def bundle(asked: Mapping[str, Any]) -> Answer:
    """`input`: the document's text. `trust_domain`: whose. `known`: the text it would replace, if any."""
    domain = str(asked["trust_domain"])
    try:
        read = parse_bundle(_text(asked["input"]), domain)
        if "known" in asked:
            known = parse_bundle(_text(asked["known"]), domain)
            if (why := refusal(_revision(known), _revision(read))) is not None:
                return _refused("refused", why)
    except BundleRefused as refused:
        return _refused("refused", str(refused))
    return _counted({domain: read})


def _revision(read: SpiffeBundle) -> Revision:
    content = repr((read.x509, sorted(read.jwt)))
    return Revision(sequence=read.sequence, digest=hashlib.sha256(content.encode()).hexdigest())


def bundle_map(asked: Mapping[str, Any]) -> Answer:
    """`input`: the map's text."""
    try:
        return _counted(parse_bundle_map(_text(asked["input"])))
    except BundleRefused as refused:
        return _refused("refused", str(refused))


def spiffe_id(asked: Mapping[str, Any]) -> Answer:
    """`input`: the ID of a workload."""
    try:
        return {"accepted": True, "spiffe_id": check_workload_id(str(asked["input"]))}
    except ValueError as bad:
        return _refused("refused", str(bad))


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Answer]] = {
    "x509": x509,
    "jwt": jwt,
    "bundle": bundle,
    "bundle-map": bundle_map,
    "spiffe-id": spiffe_id,
}


def _counted(read: Mapping[str, SpiffeBundle]) -> Answer:
    """A bundle without a usable key is valid, and means: trust nobody of the domain."""
    if not all(each.x509 or each.jwt for each in read.values()):
        return _refused("distrusted")
    found = {name: {"x509": len(each.x509), "jwt": sorted(each.jwt)} for name, each in read.items()}
    return {"accepted": True, "authorities": found}


def _bundles(asked: Mapping[str, Any]) -> Mapping[str, SpiffeBundle]:
    return parse_bundle_map(_text(asked["bundle"]))


def _text(value: Any) -> bytes:
    """A document as text, or, where nothing depends on its spelling, as the JSON itself."""
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def _chain(value: Any) -> list[bytes]:
    if isinstance(value, list):
        chain = [base64.b64decode(each, validate=True) for each in value]
    else:
        end = "-----END CERTIFICATE-----"
        pems = [part + end for part in str(value).split(end) if part.strip()]
        chain = [ssl.PEM_cert_to_DER_cert(pem.strip()) for pem in pems]
    if not chain:
        raise ValueError("input: no certificate")
    return chain
