"""Which authorities there are, by the key ids in their certificates (hex)."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509


def key_ids(authorities: Iterable[bytes]) -> list[str]:
    """Of CA certificates (DER)."""
    certificates = (x509.load_der_x509_certificate(der) for der in authorities)
    found = (each.extensions.get_extension_for_class(x509.SubjectKeyIdentifier) for each in certificates)
    return [each.value.digest.hex() for each in found]


def signer(leaf: x509.Certificate) -> str:
    """Of the authority that signed it."""
    found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert found is not None
    return found.hex()
