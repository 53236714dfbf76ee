"""Every code of the wire, on both faces."""

from __future__ import annotations

import re
from typing import Any, cast, get_args

import pytest

from stepwrit.shape import read
from stepwrit.wire import DOC_BASE, Code, Refusal
from stepwrit_broker.core.errors import Conflict, Malformed, Problem, Refused, Unavailable, Unproven
from stepwrit_broker.edge.problems import refusal_of, render, render_oauth

KINDS: dict[str, type[Problem]] = {
    **dict.fromkeys(
        (
            "invalid_request",
            "invalid_arguments",
            "invalid_authorization_details",
            "invalid_target",
            "upgrade_required",
        ),
        Malformed,
    ),
    **dict.fromkeys(("unattested", "invalid_proof", "invalid_token", "use_dpop_nonce", "no_step"), Unproven),
    **dict.fromkeys(("operation_reused", "stale_version", "wrong_state"), Conflict),
    **dict.fromkeys(("unavailable", "outcome_unknown"), Unavailable),
}
CODES: tuple[str, ...] = get_args(Code)


def problem(code: str, **more: Any) -> Problem:
    return KINDS.get(code, Refused)(code, "because", **more)


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_rendered_as_problem_details(code: str) -> None:
    """RFC 9457 section 3.1: the members, their types, and a status equal to the answer's."""
    answer = render(problem(code, rule="r", retry_after=1.5, who_can_change_it="w", ref="REF0000000"))
    body = cast("dict[str, Any]", answer.value)
    assert answer.content_type == b"application/problem+json"
    assert (body["type"], body["title"], body["detail"]) == (DOC_BASE + code, code, "because")
    assert body["status"] == answer.status
    assert 400 <= answer.status < 600
    assert read(Refusal, body["refusal"]) == Refusal(
        code=code,
        reason="because",
        rule="r",
        retry_after=1.5,
        who_can_change_it="w",
        ref="REF0000000",
        doc=DOC_BASE + code,
    )


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_rendered_as_an_oauth_error(code: str) -> None:
    """RFC 6749 section 5.2: `error` and a description of the characters that it allows."""
    answer = render_oauth(problem(code, ref="REF0000000"))
    body = cast("dict[str, Any]", answer.value)
    assert answer.content_type == b"application/json"
    assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", body["error"])
    assert answer.status in (400, 401, 403, 429, 503)
    assert (answer.status == 401) is (body["error"] == "invalid_client")
    assert body["refusal"]["code"] == code
    assert body["error_uri"] == DOC_BASE + code


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("invalid_request", 400, "invalid_request"),
        ("upgrade_required", 400, "invalid_request"),
        ("invalid_authorization_details", 400, "invalid_authorization_details"),
        ("invalid_target", 400, "invalid_target"),
        ("unattested", 401, "invalid_client"),
        ("invalid_proof", 400, "invalid_dpop_proof"),
        ("use_dpop_nonce", 400, "use_dpop_nonce"),
        ("invalid_token", 400, "invalid_request"),
        ("human_proof", 400, "invalid_request"),
        ("policy", 403, "access_denied"),
        ("limit", 429, "slow_down"),
        ("not_found", 400, "invalid_request"),
        ("revoked", 400, "invalid_request"),
        ("invalid_scope", 400, "invalid_scope"),
        ("unsupported_grant_type", 400, "unsupported_grant_type"),
        ("unsupported_token_type", 400, "unsupported_token_type"),
        ("frozen", 403, "access_denied"),
        ("stale_version", 400, "invalid_request"),
        ("unavailable", 503, "temporarily_unavailable"),
    ],
)
def test_the_oauth_errors_of_each_family(code: str, status: int, error: str) -> None:
    answer = render_oauth(problem(code))
    assert (answer.status, cast("dict[str, Any]", answer.value)["error"]) == (status, error)


def test_an_unregistered_audience_is_an_invalid_target_whoever_raises_it() -> None:
    answer = render_oauth(Refused("invalid_target", "no such resource"))
    assert (answer.status, cast("dict[str, Any]", answer.value)["error"]) == (400, "invalid_target")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_request", 400),
        ("upgrade_required", 400),
        ("unattested", 401),
        ("policy", 403),
        ("not_found", 404),
        ("limit", 429),
        ("wrong_state", 409),
        ("unavailable", 503),
    ],
)
def test_the_statuses_of_each_family(code: str, status: int) -> None:
    assert render(problem(code)).status == status


def test_a_401_names_a_scheme_and_nothing_else_does() -> None:
    """RFC 9110 section 15.5.2."""
    assert dict(render(problem("invalid_token")).headers)[b"www-authenticate"].startswith(b"DPoP ")
    assert b"www-authenticate" not in dict(render(problem("policy")).headers)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.001, b"2"), (59.9, b"60")]
)
def test_retry_after_is_whole_seconds_and_never_too_early(seconds: float, said: bytes) -> None:
    for rendered in (render, render_oauth):
        assert dict(rendered(problem("limit", retry_after=seconds)).headers)[b"retry-after"] == said


def test_what_is_not_known_is_left_out() -> None:
    for rendered in (render, render_oauth):
        answer = rendered(problem("policy"))
        assert answer.headers == ()
        assert set(cast("dict[str, Any]", answer.value)["refusal"]) == {"code", "reason", "doc"}


def test_the_ref_is_a_header_too() -> None:
    assert dict(render(problem("policy", ref="REF0000000")).headers)[b"stepwrit-ref"] == b"REF0000000"


def test_a_description_holds_only_what_oauth_allows_and_the_refusal_holds_it_all() -> None:
    reason = 'a "quoted"\\é×\n reason'
    answer = render_oauth(Malformed("invalid_request", reason))
    body = cast("dict[str, Any]", answer.value)
    assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]*", body["error_description"])
    assert body["refusal"]["reason"] == reason


def test_a_problem_says_its_code_and_reason_and_no_more() -> None:
    refused = Refused("policy", "no", rule="r", ref="REF0000000")
    assert str(refused) == "policy: no"
    assert refusal_of(refused).ref == "REF0000000"
