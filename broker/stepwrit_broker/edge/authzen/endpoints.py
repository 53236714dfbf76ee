"""`POST /access/v1/evaluation` and `…/evaluations`, and where they are (AuthZEN sections 6, 7, 9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stepwrit_broker.core.advice import Asked
from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.edge.app import Route
from stepwrit_broker.edge.authzen.answers import context_of, render_request, requestable, said_of
from stepwrit_broker.edge.authzen.shapes import Batch, body_of, denial_of, one, one_or_many
from stepwrit_broker.edge.caller import Callers
from stepwrit_broker.edge.http import Request, Response
from stepwrit_broker.flows.advice import Adviser
from stepwrit_broker.flows.evaluate import Answer
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.pace import INTERVAL_S
from stepwrit_broker.flows.requesting import Task, submit, task
from stepwrit_broker.observe import Metrics

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
REQUESTS: Final = "/access/v1/requests"
CONFIGURATION: Final = "/.well-known/authzen-configuration"


def configuration(base: str) -> dict[str, object]:
    """Section 9.1. base: the policy decision point's identifier, where this document is found as well."""
    return {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + EVALUATION,
        "access_evaluations_endpoint": base + EVALUATIONS,
        "access_request_endpoint": base + REQUESTS,
        "capabilities": ["urn:openid:authzen:capability:access-request"],
    }


class AuthzenEndpoints:
    """A no is a 200; an error says nothing of the question. Nothing is opened, reserved or minted here."""

    def __init__(self, adviser: Adviser, callers: Callers, metrics: Metrics, base: Callable[[], str]) -> None:
        """base: where this listener is reached."""
        self._adviser, self._callers, self._metrics, self._base = adviser, callers, metrics, base
        self._routes = {
            EVALUATION: Route(verb="evaluation", endpoint=self.evaluation),
            EVALUATIONS: Route(verb="evaluations", endpoint=self.evaluations),
            REQUESTS: Route(verb="access_request", endpoint=self.request, rendered=render_request),
        }

    def route(self, path: str) -> Route | None:
        """What is served at a path."""
        found = self._routes.get(path)
        if found is not None or not path.startswith(f"{REQUESTS}/"):
            return found
        name = path[len(REQUESTS) + 1 :]

        async def asked(request: Request) -> Response:
            return await self.task(request, name)

        return Route(verb="access_task", endpoint=asked, method="GET", rendered=render_request)

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
        said = [self._said(*each) for each in zip(asked.asked, answers, strict=False)]  # it may end early
        return Response(status=200, value={"evaluations": said})

    async def _asker(self, request: Request) -> Caller:
        """Who may not ask learns nothing of how to."""
        asker = await self._callers.of(request, proof=False)
        self._adviser.admit(asker)
        return asker

    async def _single(self, asker: Caller, asked: Asked) -> Response:
        (answer,) = await self._adviser.answer(asker, [asked])
        return Response(status=200, value=self._said(asked, answer))

    def _said(self, asked: Asked | Malformed, answer: Answer) -> dict[str, object]:
        code = None if answer.problem is None else answer.problem.code
        self._metrics.advised(code or "permit")
        context = context_of(answer)
        if code == "approval_required" and isinstance(asked, Asked) and asked.action == "open_step":
            context |= requestable(self._house, asked, answer, self._base() + REQUESTS)
        return {"decision": answer.decision, "context": context}

    async def request(self, request: Request) -> Response:
        """ARAP section 5: the subject itself asks persons, by opening the step. Raises as `submit`."""
        caller = await self._callers.of(request, proof=True)
        body = body_of(request)
        asked, denial = one(body), denial_of(body)
        op = request.operation_or(self._house.operation_name)
        made = await submit(self._house, caller, asked, denial, op, request.digest)
        return self._task(made, 202 if made.status == "pending" else 201)

    async def task(self, request: Request, name: str) -> Response:
        """ARAP section 6.1. Raises Refused(`not_found`, `slow_down`), Unavailable."""
        caller = await self._callers.of(request, proof=False)
        return self._task(await task(self._house, caller, name), 200)

    def _task(self, made: Task, status: int) -> Response:
        where = f"{self._base()}{REQUESTS}/{made.id}"
        headers = [(b"location", where.encode())] if status != 200 else []
        if made.status == "pending":
            headers.append((b"retry-after", str(int(INTERVAL_S)).encode()))
        return Response(status=status, value=said_of(made, where), headers=tuple(headers))

    @property
    def _house(self) -> House:
        return self._adviser.house
