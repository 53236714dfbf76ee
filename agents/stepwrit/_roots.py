"""Roots of many trust domains in one TLS pool: none may take the place of the home domain's.

OpenSSL finds an issuer by its subject and key identifier and tries only one. A partner that publishes a root
with ours could not sign for us, but could make every handshake of ours fail.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from cryptography import x509

from stepwrit.x509svid import Bundles

_log = logging.getLogger("stepwrit.tls")
_Name = tuple[bytes, bytes | None]


def without_imitations(bundles: Bundles, home: str) -> Bundles:
    """The bundles without foreign roots that OpenSSL could take for one of `home`'s."""
    ours = frozenset(_names(bundles.get(home, ())))
    return {
        domain: bundle if domain == home else _others(domain, bundle, ours)
        for domain, bundle in bundles.items()
    }


def _others(domain: str, bundle: Sequence[bytes], ours: frozenset[_Name]) -> tuple[bytes, ...]:
    subjects = {subject for subject, _ in ours}
    kept = tuple(der for der in bundle if not _imitates(der, ours, subjects))
    if len(kept) != len(bundle):
        _log.warning("the bundle of %s has a root that is named like one of ours: left out", domain)
    return kept


def _imitates(der: bytes, ours: frozenset[_Name], subjects: set[bytes]) -> bool:
    return any(
        (subject, identifier) in ours or (identifier is None and subject in subjects)
        for subject, identifier in _names([der])
    )


def _names(roots: Iterable[bytes]) -> Iterable[_Name]:
    """Subject and key identifier (RFC 5280 section 4.2.1.2) of each root that can be read."""
    for der in roots:
        try:
            root = x509.load_der_x509_certificate(der)
            yield root.subject.public_bytes(), _identifier(root)
        except ValueError:
            continue


def _identifier(root: x509.Certificate) -> bytes | None:
    try:
        return root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None
