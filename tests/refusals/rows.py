"""What a verifier of SPIFFE documents must refuse, and who of ours reads it.

A row is one thing that must be refused. A family is a kind of input; a face is one of our verifiers and reads
one family. Where a row names no family's word, that family cannot meet it, and the row says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Family = Literal["x509", "jwt", "bundle", "id"]
FAMILIES: tuple[Family, ...] = ("x509", "jwt", "bundle", "id")

ONLY_CERTIFICATES = "a rule of certificates"
ONLY_TOKENS = "a rule of tokens"
ONLY_BUNDLES = "a rule of bundle documents"
NO_DOCUMENT = "an ID alone has no such part"
NO_ID = "a bundle holds no workload's ID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`absent`: family -> why it has no case of this row. All other families have one."""

    id: str
    refused: str
    source: str
    absent: Mapping[Family, str] = field(default_factory=dict)

    @property
    def families(self) -> tuple[Family, ...]:
        """Who has cases of it."""
        return tuple(each for each in FAMILIES if each not in self.absent)


def _certificates(row: str, refused: str, source: str) -> Row:
    absent: dict[Family, str] = dict.fromkeys(("jwt", "bundle", "id"), ONLY_CERTIFICATES)
    return Row(id=row, refused=refused, source=source, absent=absent)


def _tokens(row: str, refused: str, source: str) -> Row:
    absent: dict[Family, str] = dict.fromkeys(("x509", "bundle", "id"), ONLY_TOKENS)
    return Row(id=row, refused=refused, source=source, absent=absent)


def _bundles(row: str, refused: str, source: str) -> Row:
    absent: dict[Family, str] = dict.fromkeys(("x509", "jwt", "id"), ONLY_BUNDLES)
    return Row(id=row, refused=refused, source=source, absent=absent)


def _ids(row: str, refused: str, source: str) -> Row:
    return Row(id=row, refused=refused, source=source, absent={"bundle": NO_ID})


ROWS: tuple[Row, ...] = (
    _certificates("many-uris", "more than one URI name in a certificate", "X509-SVID 2, 5.2"),
    _certificates("no-uri", "no URI name in a certificate", "X509-SVID 2"),
    _certificates("ca-as-leaf", "a CA's certificate shown as a workload's", "X509-SVID 4.1, 5.2"),
    _certificates("signing-leaf", "a leaf that may sign certificates or CRLs", "X509-SVID 4.3, 5.2"),
    _ids("root-id", "an ID without a path", "X509-SVID 3.1; SPIFFE-ID 2"),
    _ids("foreign-scheme", "an ID with another scheme", "SPIFFE-ID 2"),
    Row(
        id="upper-domain",
        refused="a trust domain that is not all lower case",
        source="SPIFFE-ID 2.1",
    ),
    _ids("odd-path", "percent-encoding, dot segments, empty segments, a slash at the end", "SPIFFE-ID 2.2"),
    _ids(
        "odd-domain",
        "a port, user information, a query, a fragment, no domain, too long",
        "SPIFFE-ID 2.1-2.3",
    ),
    Row(
        id="foreign-authority",
        refused="an ID of one trust domain vouched for by another's authority",
        source="SPIFFE Federation 7.3; Workload API 4.6, 6.3",
        absent={"bundle": "a bundle vouches for nobody by itself", "id": NO_DOCUMENT},
    ),
    _tokens("jwt-algorithm", "EdDSA, HMAC, none, and an algorithm that is not its key's", "JWT-SVID 2.1"),
    _tokens("jwt-type", "a token of another type", "JWT-SVID 2.3"),
    _tokens("jwt-header", "headers beside alg, kid and typ", "JWT-SVID 2"),
    _tokens("jwt-serialization", "anything but compact serialization", "JWT-SVID 2, 5.1"),
    _tokens("jwt-claims", "no sub, aud or exp, or one of another shape", "JWT-SVID 3"),
    _tokens(
        "jwt-audience", "a token for another service, or for several", "JWT-SVID 3.2; SPIFFE client auth 3"
    ),
    Row(
        id="key-use",
        refused="a key published for X.509 used for JWT, or without a use",
        source="SPIFFE Bundle 4.2.2; JWT-SVID 6.2",
        absent={"x509": "certificates are verified by certificates", "id": NO_DOCUMENT},
    ),
    _bundles("twice-named", "a trust domain or a member named twice", "SPIFFE Bundle 4.4"),
    _bundles("older-sequence", "a bundle that is older than the one in force", "SPIFFE Bundle 4.1.1"),
    Row(
        id="empty-bundle",
        refused="everything of a trust domain whose bundle has no usable key",
        source="SPIFFE Bundle 4.1.3",
        absent={"id": NO_DOCUMENT},
    ),
    # beyond the list of the specifications' own refusals, what they say a valid document has
    _certificates(
        "key-usage",
        "key usage missing, not critical or without digitalSignature; half an EKU",
        "X509-SVID 4.3, 4.4",
    ),
    _certificates(
        "unread-extension",
        "an extension that is critical and not understood, or must be critical and is not",
        "RFC 5280 4.2",
    ),
    Row(
        id="life",
        refused="a document before its beginning or after its end",
        source="RFC 5280 6.1; JWT-SVID 3.3; RFC 7519 4.1",
        absent={"bundle": "a bundle says when to ask again, not when it ends", "id": NO_DOCUMENT},
    ),
    _certificates("chain", "a chain that does not hold", "RFC 5280 6.1"),
    Row(
        id="unknown-domain",
        refused="an ID of a trust domain without a bundle",
        source="Workload API 4.6, 6.3",
        absent={"bundle": "what is in a bundle is known", "id": NO_DOCUMENT},
    ),
    Row(
        id="not-an-authority",
        refused="a trust anchor that is no CA's certificate",
        source="X509-SVID 4.1, 6.2",
        absent={"jwt": ONLY_CERTIFICATES, "id": NO_DOCUMENT},
    ),
    _tokens("jwt-key", "no kid, or one that names no key", "JWT-SVID 2.2, 6.2"),
    _tokens(
        "jwt-signature",
        "a signature that does not hold, or is not written in base64url",
        "JWT-SVID 4; RFC 7515 2",
    ),
    Row(
        id="malformed",
        refused="bytes that are not the document they should be",
        source="RFC 5280; RFC 7515; RFC 7517",
        absent={"id": "the rows of odd IDs are about nothing else"},
    ),
)
BY_ID: Mapping[str, Row] = {row.id: row for row in ROWS}
