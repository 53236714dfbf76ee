"""What AuthZEN's answers, and the tasks of its Access Request profile (ARAP), look like."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, cast

from stepwrit.shape import write
from stepwrit_broker.core.advice import Asked
from stepwrit_broker.core.errors import Malformed, Problem
from stepwrit_broker.edge.http import Response
from stepwrit_broker.edge.problems import refusal_of, render
from stepwrit_broker.flows.evaluate import Answer
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.pace import INTERVAL_S
from stepwrit_broker.flows.requesting import (
    EXPIRED_DENIAL,
    INVALID_BINDING,
    NOT_REQUESTABLE,
    UNKNOWN_TASK,
    Task,
    hint_of,
)

STEP: Final = "https://stepwrit.dev/step"
_URN: Final = "urn:openid:authzen:access-request:error:"
_PROBLEMS: Final = {  # ARAP, Error Responses
    NOT_REQUESTABLE: ("not_requestable", 400),
    INVALID_BINDING: ("invalid_denial_binding", 400),
    EXPIRED_DENIAL: ("expired_denial", 410),
    UNKNOWN_TASK: ("unknown_task", 404),
}


def context_of(answer: Answer) -> dict[str, object]:
    """Section 5.5.1; `reason`, `evaluation_id`, `evaluated_at` as the Access Request profile reads them."""
    versions, problem = answer.versions, answer.problem
    return {
        "evaluation_id": answer.ref,
        "evaluated_at": rfc3339(answer.at),
        "versions": {"policy": versions.policy, "registry": versions.registry, "limits": versions.limits},
        **(_why(answer) if problem is None else _why_not(problem)),
    }


def _why(answer: Answer) -> dict[str, object]:
    said: dict[str, object] = {"policies": list(answer.policies)}
    if answer.approval is not None and answer.approval.state == "given":
        asked = answer.approval.asked
        said["approval"] = {"id": asked.id, "approved_until": rfc3339(asked.step.expires_at)}
    return said


def _why_not(problem: Problem) -> dict[str, object]:
    said: dict[str, object] = {
        "reason": problem.code,
        "reason_user": {"en": problem.reason},
        "refusal": write(refusal_of(problem)),
    }
    if isinstance(problem, Malformed):
        said["error"] = {"status": problem.status, "message": problem.reason}
    return said


def requestable(house: House, asked: Asked, answer: Answer, endpoint: str) -> dict[str, object]:
    """What is added to a denial for want of an approval (ARAP, Requestable Denial and Re-evaluation)."""
    if answer.approval is not None and answer.approval.state == "asked":
        return {"next_action": "retry", "retry_after": int(INTERVAL_S)}
    hint = hint_of(house, asked, answer)
    return {
        "access_request": {
            "endpoint": endpoint,
            "expires_at": rfc3339(hint.expires_at),
            "binding_token": hint.token,
        },
        **({} if asked.approval is None else {"next_action": "request"}),
    }


def said_of(made: Task, where: str) -> dict[str, object]:
    """A task and its result. The step is there for its initiator, who asks for its token."""
    task: dict[str, object] = {
        "id": made.id,
        "status": made.status,
        "status_endpoint": where,
        STEP: made.step,
    }
    if made.status != "approved":
        links = {} if made.url is None else {"links": {"ticket": made.url}}
        return {"task": {**task, "expires_at": rfc3339(made.until), **links}}
    at = {} if made.approved_at is None else {"approved_at": rfc3339(made.approved_at)}
    approval = {"id": made.id, **at, "approved_until": rfc3339(made.until)}
    return {"task": task, "result": {"mode": "reevaluate", "approval": approval}}


def render_request(problem: Problem) -> Response:
    """RFC 9457 with the profile's own types, where it has one."""
    rendered = render(problem)
    name, status = _PROBLEMS.get(problem.rule or "", ("", rendered.status))
    if problem.code == "operation_reused":
        name = "duplicate_request"
    if problem.code == "slow_down":
        status = 429
    body = cast("dict[str, object]", rendered.value)
    own = {"type": _URN + name} if name else {}
    return replace(rendered, status=status, value={**body, **own, "status": status})


def rfc3339(at: float) -> str:
    """Whole seconds, UTC."""
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")
