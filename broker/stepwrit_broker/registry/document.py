"""From a file's text to a stored document: read, shape, meaning, and only then canonical JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from stepwrit.digest import DigestError, b64u, canonical
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.registry.marked import Marked, Problem, read, spell
from stepwrit_broker.registry.shape import check

Doc = dict[str, Any]
Checks = Callable[[Doc], list[Problem]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDoc:
    """`doc`: canonical JSON (RFC 8785) without comments. `digest`: `sha256-` and base64url SHA-256."""

    doc: str
    digest: str


def digest_of(text: str) -> str:
    """The digest under which a canonical document is known."""
    return f"sha256-{b64u(hashlib.sha256(text.encode()).digest())}"


def store(value: Doc) -> StoredDoc:
    """The stored form of a checked document. Raises Malformed."""
    try:
        text = canonical(value).decode()
    except DigestError as bad:
        raise Malformed("invalid_request", f"the document cannot be stored: {bad}") from bad
    return StoredDoc(doc=text, digest=digest_of(text))


def from_text(text: str, name: str, kind: str, checks: Checks) -> StoredDoc:
    """The stored form of a file. Raises Malformed that names every problem by line and column.

    Meaning is only looked at once the shape is right.
    """
    marked = read(text, name)
    problems = check(kind, marked.value) or checks(cast("Doc", marked.value)) + _closing(marked)
    if problems:
        raise Malformed("invalid_request", "\n".join(marked.lines(name, problems)))
    return store(cast("Doc", marked.value))


def from_doc(text: str, kind: str, checks: Checks) -> Doc:
    """A stored document, checked again. Raises Malformed that names every problem by its path."""
    try:
        value: object = json.loads(text)
    except ValueError as bad:
        raise Malformed("invalid_request", f"not a {kind} document") from bad
    problems = check(kind, value) or checks(cast("Doc", value))
    if problems:
        raise Malformed("invalid_request", "\n".join(f"{spell(path)}{what}" for path, what in problems))
    return cast("Doc", value)


def _closing(marked: Marked) -> list[Problem]:
    """`count` closes the file: what a cut-off copy would lose first."""
    last = list(cast("Doc", marked.value))[-1]
    return [] if last == "count" else [(("count",), "must be the last line of the file")]
