"""FastMCP's background tasks under steps: who may ask about one, and as whom its body runs in the worker.

FastMCP makes the task id and keeps arguments and results in its queue. Beside them there is one more name:
the step that the task belongs to. The worker takes that step's next run at the broker before anything of the
tool runs, and holds the queue's arguments against the digest that was decided on.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
from fastmcp.server.middleware import CallNext, MiddlewareContext
from fastmcp.tools.base import Tool
from fastmcp.tools.function_tool import FunctionTool
from fastmcp_tasks import TasksExtension
from fastmcp_tasks.context import get_task_context
from fastmcp_tasks.input_loop import reentrant_task_fn
from fastmcp_tasks.input_store import load_task_args
from mcp_types import InputRequiredResult
from mcp_types.version import LATEST_MODERN_VERSION

from stepwrit._fastmcp_worker import Body, run, told
from stepwrit._mcp_inputs import refusal_error
from stepwrit._mcp_run import close
from stepwrit._mcp_session import proven
from stepwrit._reply import local
from stepwrit.digest import DigestError, args_digest
from stepwrit.errors import RefusedError, StepwritError
from stepwrit.lineage import Step
from stepwrit.wire import StepStatus
from stepwrit.wire_acts import META_STEPS
from stepwrit.wire_tasks import META_TASK, AttendRequest, about_task

if TYPE_CHECKING:
    from docket import Docket

    from stepwrit import mcp

CHANGES: Final = frozenset({"tasks/update", "tasks/cancel"})
_log = logging.getLogger("stepwrit.fastmcp")
BOUND_S: Final = 30.0  # from a task's creation to its being bound to its step
LOOK_S: Final = 0.02
_KEEP_S: Final = 900
_NOT_YOURS: Final = frozenset({"invalid_proof", "not_found", "wrong_workload"})

_OUTCOMES: Final = frozenset({"result", "error", "inputRequests", "statusMessage"})


class Tasks(TasksExtension):
    """FastMCP's tasks extension, whose tasks belong to steps. Made by `Stepwrit.tasks`."""

    def __init__(self, guard: mcp.Stepwrit, **options: Any) -> None:
        super().__init__(**options)
        self._guard: Final = guard

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None, None]:
        """FastMCP's seam: the worker's functions are guarded before it takes its first task."""
        tools = [each for each in await self.server.get_tasks() if each.task_config.supports_tasks()]
        async with super().lifespan():
            docket = self._queue()
            if docket is not None:
                for tool in tools:
                    docket.register(self._guarded(cast("Tool", tool)), names=[tool.key])
            yield

    # --- whose a task is

    async def bound(self, result: Any, step: Step) -> Any:
        """The task that this call became belongs to its step. Until this is written, its body waits."""
        try:
            await self._tie(result.task_id, step.id)
        except Exception:  # the queue's client has errors of many kinds
            await close(self._guard.broker, step, "failed", by_others=False)
            raise
        return result

    async def _tie(self, task: str, step: str) -> None:
        docket = self._queue()
        if docket is None:
            raise RuntimeError("the queue of tasks is not running")
        keep = int(docket.execution_ttl.total_seconds()) + _KEEP_S
        async with docket.redis() as redis:
            await redis.set(_name(docket, task), json.dumps({"v": 1, "step": step}), ex=keep)

    async def asked(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        """A request about a task, for whoever opened its step. Raises MCPError with the refusal."""
        method = context.method or ""
        try:
            status = await self._attended(method, context.message)
        except RefusedError as no:
            raise refusal_error(no.refusal) from None
        except StepwritError as doubt:
            raise refusal_error(local("unavailable", str(doubt))) from None
        result = await call_next(context)
        if method == "tasks/cancel":
            await self._give_up(status.step)
        if method != "tasks/get":
            return result
        members = _members(result)
        if status.state == "cancelled":
            return _cancelled(members)
        if not members.get("inputRequests"):
            return result
        return await self._with_proofs(str(members["taskId"]), members)

    async def _give_up(self, step: str) -> None:
        """Its credentials end with it, wherever its body runs; one that has just ended is none to close."""
        try:
            await self._guard.broker.close_step(step, "cancelled")
        except RefusedError as no:
            _log.info("step %s: a cancelled task had ended: %s", step, no.code)

    async def _attended(self, method: str, params: Mapping[str, object]) -> StepStatus:
        """The step that the task belongs to, if its initiator sent this very request, now and once.

        Raises:
            RefusedError: `no_step` without a proof; `not_found` for whatever is not the caller's; or why its
                own task has nothing any more.
        """
        proof, task = _proof_in(params), params.get("taskId")
        step = await self._step_of(task) if isinstance(task, str) else None
        if step is None:
            raise RefusedError(local("not_found", "no such task"))
        try:
            request = AttendRequest(proof=proof, args=about_task(method, params), changes=method in CHANGES)
            return await self._guard.broker.attend(step, request)
        except DigestError as bad:
            raise RefusedError(local("invalid_arguments", str(bad))) from None
        except RefusedError as no:
            if no.code in _NOT_YOURS:  # theirs and unknown look alike; the broker has it on record
                raise RefusedError(local("not_found", "no such task")) from None
            raise

    async def _step_of(self, task: str) -> str | None:
        docket = self._queue()
        if docket is None:
            return None
        async with docket.redis() as redis:
            kept = await redis.get(_name(docket, task))
        return None if kept is None else str(json.loads(kept)["step"])

    def _queue(self) -> Docket | None:
        return cast("Docket | None", self.server._docket)  # pyright: ignore[reportPrivateUsage]

    # --- in the worker

    def _guarded(self, tool: Tool) -> Callable[..., Awaitable[Any]]:
        """What FastMCP would have registered, with the step round the tool's own function."""
        own: Callable[..., Awaitable[Any]] = tool.fn if isinstance(tool, FunctionTool) else tool.run

        @functools.wraps(own)
        async def body(*args: Any, **kwargs: Any) -> Any:
            return await self._performed(lambda: own(*args, **kwargs))

        body.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
        return reentrant_task_fn(body, tool.name)

    async def _performed(self, body: Body) -> Any:
        try:
            step = await self._taken()
        except RefusedError as no:
            return told(no.refusal)
        except StepwritError as doubt:
            return told(local("unavailable", str(doubt)))
        return await run(self._guard.broker, step, body, self._guard.how, self._ask)

    async def _ask(self, step: Step, asked: InputRequiredResult) -> None:
        """Each thing that the client is to do is a step of ours; their proofs wait beside the questions."""
        made = await proven(step, asked, LATEST_MODERN_VERSION)
        proofs = cast("Mapping[str, object]", (made.meta or {}).get(META_STEPS, {}))
        said = asked.model_dump(by_alias=True, mode="json", exclude_none=True).get("inputRequests", {})
        kept = [[args_digest(said[key]), proofs[key]] for key in said]
        info, docket = get_task_context(), self._queue()
        if info is None or docket is None:
            raise RefusedError(local("no_step", "this runs for no task"))
        async with docket.redis() as redis:
            await redis.set(f"{_name(docket, info.task_id)}:asks", json.dumps(kept), ex=_KEEP_S)

    async def _with_proofs(self, task: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """What a task asks for, under FastMCP's own keys, with the proof of each."""
        docket = self._queue()
        if docket is None:
            return dict(result)
        async with docket.redis() as redis:
            kept = json.loads(await redis.get(f"{_name(docket, task)}:asks") or "[]")
        proofs: dict[str, object] = {}
        for key, request in result["inputRequests"].items():
            found = next((each for each in kept if each[0] == args_digest(request)), None)
            if found is not None:
                kept.remove(found)
                proofs[key] = found[1]
        return {**result, "_meta": {**(result.get("_meta") or {}), META_STEPS: proofs}}

    async def _taken(self) -> Step:
        """The next run of the task's step, for the arguments that are in the queue."""
        broker, info, docket = self._guard.broker, get_task_context(), self._queue()
        if info is None or docket is None:
            raise RefusedError(local("no_step", "this runs for no task"))
        step = await self._bound(info.task_id)
        resumed = await broker.resume(step)
        queued = await load_task_args(docket, info.task_scope, info.task_id)
        if args_digest(queued) != args_digest(resumed.args):
            await close(broker, Step(broker, resumed), "failed", by_others=False)
            raise RefusedError(local("arguments_changed", "the queue's arguments are not those of the step"))
        return Step(broker, resumed)

    async def _bound(self, task: str) -> str:
        """The server binds it right after it was made; a worker can be quicker than that."""
        with anyio.move_on_after(BOUND_S):
            while True:
                step = await self._step_of(task)
                if step is not None:
                    return step
                await anyio.sleep(LOOK_S)
        raise RefusedError(local("no_step", "this task belongs to no step"))


def _proof_in(params: Mapping[str, object]) -> str:
    meta = params.get("_meta")
    own = meta.get(META_TASK) if isinstance(meta, Mapping) else None
    proof = own.get("proof") if isinstance(own, Mapping) else None
    if not isinstance(proof, str):
        raise RefusedError(local("no_step", "this request about a task carries no proof of its initiator"))
    return proof


def _members(result: Any) -> dict[str, Any]:
    """As they travel."""
    if isinstance(result, Mapping):
        return dict(cast("Mapping[str, Any]", result))
    return cast("dict[str, Any]", result.model_dump(by_alias=True, mode="json", exclude_none=True))


def _cancelled(members: dict[str, Any]) -> dict[str, Any]:
    """What is told of a task that its initiator gave up: that it was, and no result that came too late."""
    return {**{name: members[name] for name in members if name not in _OUTCOMES}, "status": "cancelled"}


def _name(docket: Docket, task: str) -> str:
    return docket.key(f"stepwrit:{task}")
