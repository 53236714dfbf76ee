"""`POST /access/v1/evaluation` and `…/evaluations`, and where they are (AuthZEN sections 6, 7, 9)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from stepwrit.shape import write
from stepwrit_broker.core.advice import Asked
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Problem
from stepwrit_broker.edge.authzen.shapes import Batch, body_of, one, one_or_many
from stepwrit_broker.edge.caller import Callers
from stepwrit_broker.edge.http import Request, Response
from stepwrit_broker.edge.problems import refusal_of
from stepwrit_broker.flows.advice import Adviser
from stepwrit_broker.flows.evaluate import Answer
from stepwrit_broker.observe import Metrics

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
CONFIGURATION: Final = "/.well-known/authzen-configuration"


def configuration(base: str) -> dict[str, object]:
    """Section 9.1. base: the policy decision point's identifier, where this document is found as well."""
    return {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + EVALUATION,
        "access_evaluations_endpoint": base + EVALUATIONS,
    }


class AuthzenEndpoints:
    """A no is a 200; an error says nothing of the question. Nothing is opened, reserved or minted here."""

    def __init__(self, adviser: Adviser, callers: Callers, metrics: Metrics) -> None:
        self._adviser, self._callers, self._metrics = adviser, callers, metrics

    async def evaluation(self, request: Request) -> Response:
        """Section 6. Raises Malformed, Unproven, Refused(`wrong_workload`, `limit`, …), Unavailable."""
        asker = await self._asker(request)
        return await self._single(asker, one(body_of(request)))

    async def evaluations(self, request: Request) -> Response:
        """Section 7. Raises as `evaluation`; what is wrong with one of several is that one's own answer."""
        asker = await self._asker(request)
        asked = one_or_many(body_of(request))
        if not isinstance(asked, Batch):
            return await self._single(asker, asked)
        answers = await self._adviser.answer(asker, asked.asked, asked.semantic)
        return Response(status=200, value={"evaluations": [self._said(each) for each in answers]})

    async def _asker(self, request: Request) -> Caller:
        """Who may not ask learns nothing of how to."""
        asker = await self._callers.of(request, proof=False)
        self._adviser.admit(asker)
        return asker

    async def _single(self, asker: Caller, asked: Asked) -> Response:
        (answer,) = await self._adviser.answer(asker, [asked])
        return Response(status=200, value=self._said(answer))

    def _said(self, answer: Answer) -> dict[str, object]:
        self._metrics.advised("permit" if answer.problem is None else answer.problem.code)
        return {"decision": answer.decision, "context": _context(answer)}


def _context(answer: Answer) -> dict[str, object]:
    """Section 5.5.1; `reason`, `evaluation_id`, `evaluated_at` as the Access Request profile reads them."""
    versions, problem = answer.versions, answer.problem
    return {
        "evaluation_id": answer.ref,
        "evaluated_at": datetime.fromtimestamp(int(answer.at), UTC).isoformat().replace("+00:00", "Z"),
        "versions": {"policy": versions.policy, "registry": versions.registry, "limits": versions.limits},
        **({"policies": list(answer.policies)} if problem is None else _why_not(problem)),
    }


def _why_not(problem: Problem) -> dict[str, object]:
    said: dict[str, object] = {
        "reason": problem.code,
        "reason_user": {"en": problem.reason},
        "refusal": write(refusal_of(problem)),
    }
    if isinstance(problem, Malformed):
        said["error"] = {"status": problem.status, "message": problem.reason}
    return said
