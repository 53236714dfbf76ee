"""What an approver's key signs, byte for byte: a line that says what for, then one JSON object. Pure.

The first line holds a blank, so no statement is the signing input of a JWS (RFC 7515 section 5.1): a key
proof, an ID token and a step's proof can never pass as a statement, nor one statement as another. The same
word is the namespace of an SSH signature over it (PROTOCOL.sshsig).
"""

from __future__ import annotations

from typing import Final, Literal

from stepwrit.digest import DigestError, canonical, parse_json

V: Final = 1
Purpose = Literal["approval.stepwrit.dev", "request.stepwrit.dev"]
APPROVAL: Final = "approval.stepwrit.dev"
REQUEST: Final = "request.stepwrit.dev"


def approval_statement(*, issuer: str, approval: str, key: str, attempt: str, digest: str) -> bytes:
    """The signature of one key over one approval: its digest, in one attempt. attempt: base64url."""
    members: dict[str, object] = {"issuer": issuer, "approval": approval, "attempt": attempt}
    return _statement(APPROVAL, {**members, "key": key, "digest": digest})


def request_statement(*, key: str, method: str, url: str, body: str, at: int, jti: str, nonce: str) -> bytes:
    """The holder of the key makes this very request. body: `body_digest`. at: seconds since the epoch.

    jti: fresh for each. nonce: the listener's own, as it gave it.
    """
    members: dict[str, object] = {"method": method, "url": url, "body": body, "at": at, "jti": jti}
    return _statement(REQUEST, {**members, "key": key, "nonce": nonce})


def read_statement(purpose: Purpose, said: bytes) -> dict[str, object]:
    """The members of a statement for this purpose. Raises ValueError for whatever is not exactly one."""
    head = f"{purpose} v{V}\n".encode()
    if not said.startswith(head):
        raise ValueError("a statement for another purpose")
    try:
        members = parse_json(said[len(head) :])
        if not isinstance(members, dict) or _statement(purpose, dict(members)) != said:
            raise ValueError("not in the canonical form")
    except DigestError as bad:
        raise ValueError("not JSON of one meaning") from bad
    return dict(members)


def _statement(purpose: Purpose, members: dict[str, object]) -> bytes:
    return f"{purpose} v{V}\n".encode() + canonical(members)
