"""The one table that renders a problem, per face: RFC 6749 section 5.2 on OAuth, RFC 9457 elsewhere."""

from __future__ import annotations

import math
import re

from stepwrit.shape import write
from stepwrit.wire import DOC_BASE, Refusal
from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.edge.http import Response

_STATUS = {"limit": 429, "slow_down": 429, "not_found": 404}
# what an error_description may not hold (RFC 6749 section 5.2)
_UNSAID = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
_OAUTH = {
    "invalid_authorization_details": (400, "invalid_authorization_details"),  # RFC 9396 section 5
    "invalid_target": (400, "invalid_target"),  # RFC 8707 section 2
    "invalid_scope": (400, "invalid_scope"),
    "unsupported_grant_type": (400, "unsupported_grant_type"),
    "unsupported_token_type": (400, "unsupported_token_type"),  # RFC 7009 section 2.2.1
    "unattested": (401, "invalid_client"),
    "invalid_grant": (400, "invalid_grant"),  # RFC 7523 section 3.1
    "invalid_proof": (400, "invalid_dpop_proof"),  # RFC 9449 section 5
    "use_dpop_nonce": (400, "use_dpop_nonce"),  # RFC 9449 section 8
    "limit": (429, "slow_down"),
    # RFC 8628 section 3.5, which CIBA uses too
    **{
        each: (400, each) for each in ("authorization_pending", "slow_down", "access_denied", "expired_token")
    },
    "human_proof": (400, "invalid_request"),
    # a subject token that is not or no longer good, for whatever reason (RFC 8693 section 2.2.2)
    **dict.fromkeys(
        ("no_step", "not_found", "expired", "closed", "already_done", "revoked"), (400, "invalid_request")
    ),
}
_SPENT = {
    "proof dpop": "invalid_dpop_proof",
    "proof id_token": "invalid_request",
    "proof id_jag": "invalid_grant",
}  # what was shown twice


_CHALLENGE = {  # RFC 9449 sections 7.1 and 9
    "use_dpop_nonce": b'DPoP error="use_dpop_nonce", algs="ES256"',
    "invalid_proof": b'DPoP error="invalid_dpop_proof", algs="ES256"',
}


def refusal_of(problem: Problem) -> Refusal:
    """The typed shape that every face carries."""
    return Refusal(
        code=problem.code,
        reason=problem.reason,
        rule=problem.rule,
        retry_after=problem.retry_after,
        who_can_change_it=problem.who_can_change_it,
        ref=problem.ref,
        doc=DOC_BASE + problem.code,
        approval=problem.approval,
    )


def render(problem: Problem) -> Response:
    """RFC 9457 problem details with our shape beside it."""
    status = _STATUS.get(problem.code, problem.status)
    body = {
        "type": DOC_BASE + problem.code,
        "title": problem.code,
        "status": status,
        "detail": problem.reason,
        "refusal": write(refusal_of(problem)),
    }
    headers = _headers(problem)
    if status == 401:  # RFC 9110 section 15.5.2: a 401 names a scheme
        headers = (*headers, (b"www-authenticate", _CHALLENGE.get(problem.code, b'DPoP algs="ES256"')))
    return Response(status=status, value=body, content_type=b"application/problem+json", headers=headers)


def render_oauth(problem: Problem) -> Response:
    """RFC 6749 section 5.2 with our shape beside it.

    A bad subject token is `invalid_request` (RFC 8693 section 2.2.2).
    """
    status, error = _oauth(problem)
    body = {
        "error": error,
        "error_description": _UNSAID.sub("'", problem.reason),
        "error_uri": DOC_BASE + problem.code,
        "refusal": write(refusal_of(problem)),
    }
    return Response(status=status, value=body, headers=_headers(problem))


def _oauth(problem: Problem) -> tuple[int, str]:
    if problem.code == "replay" and problem.rule in _SPENT:
        return 400, _SPENT[problem.rule]
    return _OAUTH.get(problem.code, (_oauth_status(problem), _oauth_error(problem)))


def _oauth_status(problem: Problem) -> int:
    return {401: 400, 409: 400, 404: 400}.get(problem.status, problem.status)


def _oauth_error(problem: Problem) -> str:
    if isinstance(problem, Unavailable):
        return "temporarily_unavailable"
    return "access_denied" if problem.status == 403 else "invalid_request"


def _headers(problem: Problem) -> tuple[tuple[bytes, bytes], ...]:
    headers: list[tuple[bytes, bytes]] = []
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(problem.retry_after))).encode()))
    if problem.code == "unattested":
        headers.append((b"connection", b"close"))  # a pooled client comes back with its current SVID
    if problem.ref is not None:
        headers.append((b"stepwrit-ref", problem.ref.encode()))
    return tuple(headers)
