"""The hook on an MCP session's requests about tasks: each carries our proof for the task's own step.

A task id is a name: whoever has it has nothing. What opens the task is the key that opened its step, and only
for the one request that it is put under.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from stepwrit import telemetry
from stepwrit._outgoing import OutgoingStep, digest_of
from stepwrit._reply import local
from stepwrit.errors import RefusedError
from stepwrit.wire_acts import META_STEPS
from stepwrit.wire_tasks import META_TASK, members_about

if TYPE_CHECKING:
    from stepwrit._hook_acts import Acts

Known = OrderedDict[tuple[str, str], OutgoingStep]  # by server and task: ids are the servers' own
REMEMBERED: Final = 1_024  # tasks that nobody may ever ask for again


class Tasks:
    """One session's `send_request`, replaced on the instance until `remove`.

    known: tasks of other connections that are ours too.
    """

    def __init__(self, session: Any, acts: Acts, server: str, known: Known | None = None) -> None:
        self._session: Final = session
        self._server: Final = server
        self._acts: Final = acts
        self._seen: Final[set[tuple[str, str, str]]] = set()
        self._original: Final = getattr(session, "send_request", None)
        self._steps: Final[Known] = OrderedDict() if known is None else known

    def install(self) -> None:
        """Take the place of the session's method, if it has one."""
        if self._original is not None:
            self._session.send_request = self.send_request

    def remove(self) -> None:
        """Give the place back."""
        if getattr(getattr(self._session, "send_request", None), "__self__", None) is self:
            del self._session.send_request

    def made(self, step: OutgoingStep, result: object) -> bool:
        """Whether the call became a task, which is remembered as this step's."""
        task = getattr(result, "task_id", None)
        if getattr(result, "result_type", None) != "task" or not isinstance(task, str):
            return False
        self._steps[self._server, task] = step
        while len(self._steps) > REMEMBERED:
            self._steps.popitem(last=False)
        return True

    async def send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """`ClientSession.send_request`; about a task of ours with our proof, about any other without.

        Any other asks us nothing. What a task of ours asks for is accepted as the server's own steps before
        anybody answers it, and its answers end them.

        Raises:
            MCPError: the server asks without proof, in the refusal's form.
        """
        method: str = getattr(request, "method", "")
        task = getattr(getattr(request, "params", None), "task_id", None)
        name = task if method.startswith("tasks/") and isinstance(task, str) else ""
        step = self._steps.get((self._server, name))
        try:
            if step is None:
                return _quiet(method, await self._original(request, *args, **kwargs))  # type: ignore[misc]
            if method == "tasks/update":
                await self._acts.answered(step)
            result = await self._original(_proved(step, request), *args, **kwargs)  # type: ignore[misc]
            await self._asked(step, result)
        except RefusedError as no:
            from stepwrit._mcp_inputs import refusal_error  # noqa: PLC0415  needs the `mcp` extra

            raise refusal_error(no.refusal) from None
        return result

    async def _asked(self, step: OutgoingStep, result: object) -> None:
        """Each question once, however often the task is looked at; another under its key is another one."""
        requests: dict[str, Any] = getattr(result, "input_requests", None) or {}
        digests = {key: digest_of({"question": each}) for key, each in requests.items()}
        fresh = {key: requests[key] for key in requests if (step.step, key, digests[key]) not in self._seen}
        if not fresh:
            return
        from mcp_types import InputRequiredResult  # noqa: PLC0415  needs the `mcp` extra

        from stepwrit.lineage import hold  # noqa: PLC0415  which is built on this

        meta = dict(getattr(result, "meta", None) or {})
        proofs = meta.get(META_STEPS)
        if isinstance(proofs, dict):
            meta[META_STEPS] = {key: proofs[key] for key in fresh if key in proofs}
        asked = InputRequiredResult.model_validate({"inputRequests": fresh, "_meta": meta})
        await self._acts.arrived(step, asked)
        hold(self._acts.of(step))
        self._seen.update((step.step, key, digests[key]) for key in fresh)


def _quiet(method: str, result: Any) -> Any:
    """The answer about what is no task of ours. Raises RefusedError if it asks for something."""
    if method.startswith("tasks/") and getattr(result, "input_requests", None):
        telemetry.act_refused("something", "no_step")
        raise RefusedError(local("no_step", "the server asks for something for no task of a guarded call"))
    return result


def _proved(step: OutgoingStep, request: Any) -> Any:
    params = request.params
    sent: dict[str, Any] = params.model_dump(by_alias=True, mode="json", exclude_none=True)
    digest = digest_of(members_about(request.method, sent))
    meta = {**(params.meta or {}), META_TASK: {"proof": step.task_proof(digest)}}
    return request.model_copy(update={"params": params.model_copy(update={"meta": meta})})
