"""The second policy engine: OPA over HTTP. OPA evaluates; which version is in force, the broker says.

A version is a module named by its digest, so that activation and undo are a change of name here, the same for
every broker. OPA keeps modules in memory only: one that it lost is given again. Doubt is Unavailable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

import msgspec

from stepwrit_broker.core.errors import Malformed, Unavailable
from stepwrit_broker.core.obligations import EVERY_FACT
from stepwrit_broker.core.verdict import Deny, Question, Verdict
from stepwrit_broker.policy.breaker import Breaker
from stepwrit_broker.policy.demands import SILENT
from stepwrit_broker.policy.facts import MISFIT, Facts
from stepwrit_broker.policy.opa_answer import Answer, NotAnAnswer, read, verdict
from stepwrit_broker.policy.opa_http import EvaluationFailed, OpaFailed, OpaHttp, OpaServer
from stepwrit_broker.policy.rego import RegoModule, unfit
from stepwrit_broker.policy.source import refuse

PUSH_S: Final = 10.0
_RETRY_S: Final = 1.0
_to_json = msgspec.json.Encoder().encode
_OPERATOR: Final = "the operator (OPA, broker.toml [opa])"


class Heard(Protocol):
    """Hears of each question put to OPA."""

    def __call__(self, outcome: str, seconds: float, *, is_open: bool) -> None:
        """outcome: `ok` or one word for what failed. is_open: the breaker, afterwards."""
        ...


def _nobody(outcome: str, seconds: float, *, is_open: bool) -> None:
    """Nobody listens."""


class Opa:
    """One OPA server, shared by all versions of the policy. clock: monotonic, seconds."""

    def __init__(self, server: OpaServer, clock: Callable[[], float], heard: Heard = _nobody) -> None:
        """Raises OSError, ssl.SSLError for files that cannot be read."""
        self._http, self._clock, self._heard = OpaHttp(server), clock, heard
        self._timeout_s = server.timeout_s
        self._breaker = Breaker(server.failures, server.open_s)
        self._pushes: dict[str, asyncio.Task[list[str]]] = {}

    async def aclose(self) -> None:
        """Let go of pushes and connections."""
        for push in self._pushes.values():
            push.cancel()
        await self._http.aclose()

    async def reached(self) -> float:
        """Seconds until a question about nothing was answered. Raises OpaFailed, TimeoutError."""
        began = self._clock()
        async with asyncio.timeout(self._timeout_s):
            await self._http.query("stepwrit/doctor", b'{"input":{}}')
        return self._clock() - began

    async def prove(self, module: RegoModule) -> None:
        """Give OPA a module and see that it fits. Raises Malformed with every problem, Unavailable.

        Then nothing changed: a module that nobody names is not asked.
        """
        try:
            async with asyncio.timeout(PUSH_S):
                problems = await self._http.put(module)
                refuse(problems, "the policy was not loaded")
                problems = unfit(module, await self._http.parsed(module)) or await self._unclosed(module)
                if problems:
                    await self._http.forget(module)
        except (OpaFailed, TimeoutError) as bad:
            raise _unavailable(f"OPA could not be given the policy ({_why(bad)})", _RETRY_S) from bad
        refuse(problems, "the policy was not loaded")

    async def _unclosed(self, module: RegoModule) -> list[str]:
        """A file that leaves a string open takes those after it with it: each must say that it is there."""
        try:
            answer = read(await self._http.query(module.path, b'{"input":{}}'))
        except (EvaluationFailed, NotAnAnswer):
            return []  # on no input at all it may err; a real question is judged by itself
        there = set() if answer is None else set(answer.files)
        return [f"{name}: is swallowed by a file before it" for name in module.files if name not in there]

    async def ask(self, module: RegoModule, body: bytes) -> Answer | None:
        """The answer; None where the policy errs on this input. Raises Unavailable."""
        wait = self._breaker.wait_s(self._clock())
        if wait:
            raise _unavailable("the policy engine does not answer", wait)
        began = self._clock()
        try:
            answer = await self._answer(module, body)
        except (OpaFailed, NotAnAnswer, TimeoutError) as bad:
            self._breaker.failed(self._clock())
            self._tell(_why(bad), began)
            raise _unavailable("the policy engine could not be asked", _RETRY_S) from bad
        self._breaker.succeeded()
        self._tell("ok" if answer is not None else "evaluation", began)
        return answer

    def _tell(self, outcome: str, began: float) -> None:
        self._heard(outcome, self._clock() - began, is_open=self._breaker.is_open)

    async def _answer(self, module: RegoModule, body: bytes) -> Answer | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = read(await self._http.query(module.path, body))
                if answer is None:
                    await self._push(module)
                    answer = read(await self._http.query(module.path, body))
        except EvaluationFailed:
            return None
        if answer is None or sorted(answer.files) != list(module.files):
            raise OpaFailed("undefined")
        return answer

    async def _push(self, module: RegoModule) -> None:
        """Once for all who ask: one that gives up waiting leaves it to the next."""
        push = self._pushes.get(module.name)
        if push is None or push.done():
            push = self._pushes[module.name] = asyncio.create_task(self._given(module))
        if await asyncio.shield(push):
            raise OpaFailed("compile")

    async def _given(self, module: RegoModule) -> list[str]:
        try:
            async with asyncio.timeout(PUSH_S):
                return await self._http.put(module)
        except (OpaFailed, TimeoutError) as bad:
            return [_why(bad)]


class OpaEngine:
    """A PolicyEngine over one module. opa: None refuses everything, because broker.toml names no server."""

    def __init__(
        self,
        opa: Opa | None,
        module: RegoModule,
        facts: Mapping[str, str],
        version: int,
    ) -> None:
        self._opa, self._module, self._facts, self._version = opa, module, Facts(facts), version
        self._declared = frozenset(facts)
        self._redact = frozenset({EVERY_FACT} if "redact" in module.text else ())

    @property
    def version(self) -> int:
        """The version in force."""
        return self._version

    async def decide(self, question: Question) -> Verdict:
        """The verdict. Raises Unavailable(rule="policy") when OPA is in doubt."""
        if self._opa is None:
            raise _unavailable("the policy is Rego, and this broker has no OPA to ask", None)
        facts = self._facts.shown(cast("Mapping[str, object]", question.document["facts"]))
        if facts is None:
            return Deny(policies=(), reason=MISFIT, redact=self._redact)
        answer = await self._opa.ask(self._module, _input(question, facts))
        if answer is None:
            return Deny(policies=(), reason=SILENT, redact=self._redact)
        return verdict(answer, self._declared, approved=question.document["approval"] is not None)

    async def prove(self) -> None:
        """See that OPA takes it. Raises Malformed with every problem as `file:line: what`; Unavailable."""
        if self._opa is None:
            raise Malformed(
                "invalid_request",
                "the policy was not loaded: it is Rego, and broker.toml [opa] names no server",
                who_can_change_it=_OPERATOR,
            )
        await self._opa.prove(self._module)


def _input(question: Question, facts: Mapping[str, object]) -> bytes:
    """The decision document without its nulls: in Rego a null is there, and `not` says nothing of it."""
    document = {**question.document, "facts": facts}
    asked = {**document, "principal": question.principal, "resource": question.resource}
    return _to_json({"input": _without_nulls(asked)})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def _why(bad: Exception) -> str:
    if isinstance(bad, OpaFailed):
        return bad.why
    return "shape" if isinstance(bad, NotAnAnswer) else "timeout"


def _unavailable(reason: str, retry_after: float | None) -> Unavailable:
    return Unavailable(
        "unavailable", reason, rule="policy", retry_after=retry_after, who_can_change_it=_OPERATOR
    )
