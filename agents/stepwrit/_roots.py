"""Roots of many trust domains in one TLS pool: none may take the place of the home domain's.

OpenSSL finds an issuer by its subject and key identifier and tries only one. A partner that publishes a root
with ours could not sign for us, but could make every handshake of ours fail.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cryptography import x509

from stepwrit.x509svid import PARSE_ERRORS, Bundles

_log = logging.getLogger("stepwrit.tls")
_Subject = tuple[frozenset[tuple[str, str | bytes]], ...]
_Name = tuple[_Subject, bytes | None]


def without_imitations(bundles: Bundles, home: str) -> Bundles:
    """The bundles without foreign roots that OpenSSL could take for one of `home`'s."""
    ours = frozenset(filter(None, map(_name, bundles.get(home, ()))))
    return {
        domain: bundle if domain == home else _others(domain, bundle, ours)
        for domain, bundle in bundles.items()
    }


def _others(domain: str, bundle: Sequence[bytes], ours: frozenset[_Name]) -> tuple[bytes, ...]:
    kept = tuple(der for der in bundle if not _imitates(_name(der), ours))
    if len(kept) != len(bundle):
        _log.warning(
            "the bundle of %s has a root that is named like one of ours, or unreadable: left out", domain
        )
    return kept


def _imitates(foreign: _Name | None, ours: frozenset[_Name]) -> bool:
    """What cannot be read may be named like anybody."""
    return foreign is None or any(_same(foreign, each) for each in ours)


def _same(one: _Name, other: _Name) -> bool:
    """The same subject, and no key identifiers that tell them apart."""
    return one[0] == other[0] and (one[1] == other[1] or None in (one[1], other[1]))


def _name(der: bytes) -> _Name | None:
    """Subject and key identifier (RFC 5280 section 4.2.1.2) of a root, None if it cannot be read."""
    try:
        root = x509.load_der_x509_certificate(der)
        return tuple(map(_canonical, root.subject.rdns)), _identifier(root)
    except PARSE_ERRORS:
        return None


def _canonical(rdn: x509.RelativeDistinguishedName) -> frozenset[tuple[str, str | bytes]]:
    """As OpenSSL compares names: whatever the string's type, case and blanks (RFC 5280 section 7.1)."""
    return frozenset((each.oid.dotted_string, _plain(each.value)) for each in rdn)


def _plain(value: str | bytes) -> str | bytes:
    return " ".join(value.split()).casefold() if isinstance(value, str) else value


def _identifier(root: x509.Certificate) -> bytes | None:
    try:
        return root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None
