"""Cases of bundles: documents that are refused whole, and such that leave nobody to trust."""

from __future__ import annotations

import json
from typing import Any

from tests.refusals.case import DOMAIN, PARTNER, Case, x509_key

REFUSED, DISTRUSTED = "refused", "distrusted"


def cases(ca: bytes, leaf: bytes, unreadable: bytes, jwk: dict[str, Any]) -> list[Case]:
    """All of the family. ca, leaf, unreadable: certificates; jwk: a key for JWT-SVIDs."""
    root = x509_key(ca)
    return [*_valid(root, jwk), *_maps(root, jwk), *_keys(root, jwk, leaf, unreadable), *_sequences(root)]


def _doc(*keys: Any, **more: Any) -> bytes:
    return json.dumps({"keys": list(keys), **more}).encode()


def _map(text: str) -> bytes:
    return f'{{"trust_domains": {{{text}}}}}'.encode()


def _case(name: str, raw: bytes, reading: str = "bundle", **more: Any) -> Case:
    return Case(name=f"bundle/{name}", family="bundle", reading=reading, input=raw, **more)  # type: ignore[arg-type]


def _no(
    name: str, row: str, code: str, raw: bytes, twin: str = "plain", reading: str = "bundle", **more: Any
) -> Case:
    return _case(name, raw, reading, row=row, code=code, twin=f"bundle/{twin}", **more)


def _valid(root: dict[str, Any], jwk: dict[str, Any]) -> list[Case]:
    strange = [{"kty": "AKP", "use": "x509-svid"}, {"kty": "EC", "use": "wit-svid"}, {"kty": "EC"}]
    two = f'"{DOMAIN}": {_doc(root).decode()}, "{PARTNER}": {_doc(root).decode()}'
    return [
        _case("plain", _doc(root, jwk, spiffe_sequence=7, spiffe_refresh_hint=60)),
        _case("with-strange-keys", _doc(*strange, root, jwk)),
        _case("largest-sequence", _doc(root, spiffe_sequence=2**64 - 1)),
        _case("map", _map(two), "bundle-map"),
        _case("newer", _doc(root, spiffe_sequence=8), "update", known=_doc(root, spiffe_sequence=7)),
        _case("same", _doc(root, spiffe_sequence=7), "update", known=_doc(root, spiffe_sequence=7)),
        _case("never-numbered", _doc(root), "update", known=_doc(root)),
    ]


def _maps(root: dict[str, Any], jwk: dict[str, Any]) -> list[Case]:
    one, other = _doc(root).decode(), _doc(jwk).decode()

    def no(name: str, row: str, text: str) -> Case:
        return _no(name, row, REFUSED, _map(text), "map", "bundle-map")

    return [
        no("domain-twice", "twice-named", f'"{DOMAIN}": {one}, "{DOMAIN}": {other}'),
        no("domain-twice-escaped", "twice-named", f'"{DOMAIN}": {one}, "\\u0061.test": {other}'),
        no("domain-twice-as-id", "twice-named", f'"{DOMAIN}": {one}, "spiffe://{DOMAIN}": {other}'),
        _no("keys-twice", "twice-named", REFUSED, _doc(root)[:-1] + b', "keys": []}'),
        no("upper-domain", "upper-domain", f'"A.test": {one}'),
        no("upper-domain-beside", "upper-domain", f'"{DOMAIN}": {one}, "A.TEST": {other}'),
        no("domain-with-path", "malformed", f'"{DOMAIN}/x": {one}'),
        _no("map-of-nothing", "malformed", REFUSED, b"{}", "map", "bundle-map"),
        _no("map-is-a-list", "malformed", REFUSED, b'{"trust_domains": []}', "map", "bundle-map"),
    ]


def _keys(root: dict[str, Any], jwk: dict[str, Any], leaf: bytes, unreadable: bytes) -> list[Case]:
    no_use = [{name: value for name, value in each.items() if name != "use"} for each in (root, jwk)]
    private = {**jwk, "d": "AAAA"}
    return [
        _no("no-keys", "empty-bundle", DISTRUSTED, _doc()),
        _no(
            "only-strange-keys",
            "empty-bundle",
            DISTRUSTED,
            _doc({"kty": "AKP"}, {"use": "wit-svid"}),
            "with-strange-keys",
        ),
        _no("keys-without-use", "key-use", DISTRUSTED, _doc(*no_use), "with-strange-keys"),
        _no("jwt-key-as-x509", "key-use", DISTRUSTED, _doc({**jwk, "use": "x509-svid"})),
        _no("x509-key-as-jwt", "key-use", DISTRUSTED, _doc({**root, "use": "jwt-svid"})),
        _no("private-key", "key-use", DISTRUSTED, _doc(private)),
        _no(
            "secret-key",
            "key-use",
            DISTRUSTED,
            _doc({"kty": "oct", "k": "AAAA", "use": "jwt-svid", "kid": "k"}),
        ),
        _no("leaf-as-authority", "not-an-authority", REFUSED, _doc(x509_key(leaf))),
        _no("leaf-beside-authority", "not-an-authority", REFUSED, _doc(root, x509_key(leaf))),
        _no("unreadable-authority", "not-an-authority", REFUSED, _doc(x509_key(unreadable))),
        _no("junk-authority", "not-an-authority", REFUSED, _doc({**root, "x5c": ["AAAA"]})),
        _no("keys-missing", "malformed", REFUSED, b"{}"),
        _no("keys-null", "malformed", REFUSED, b'{"keys": null}'),
        _no("key-is-text", "malformed", REFUSED, b'{"keys": ["x"]}'),
        _no("no-json", "malformed", REFUSED, b"keys"),
        _no("too-large", "malformed", REFUSED, _doc(root, pad="x" * 1_048_576)),
        _no("deep", "malformed", REFUSED, b'{"keys": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ]


def _sequences(root: dict[str, Any]) -> list[Case]:
    known = _doc(root, spiffe_sequence=7)

    def no(name: str, raw: bytes) -> Case:
        return _no(name, "older-sequence", REFUSED, raw, "newer", "update", known=known)

    return [
        no("older", _doc(root, spiffe_sequence=6)),
        no("no-longer-numbered", _doc(root)),
        *(
            no(f"sequence-{name}", _doc(root, spiffe_sequence=value))
            for name, value in (
                ("negative", -1),
                ("text", "8"),
                ("fraction", 8.5),
                ("too-large", 2**64),
                ("true", True),
            )
        ),
    ]
