"""The hook on an MCP session's requests about tasks: each carries our proof for the task's own step.

A task id is a name: whoever has it has nothing. What opens the task is the key that opened its step, and only
for the one request that it is put under.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from stepwrit._outgoing import OutgoingStep, digest_of
from stepwrit.wire_tasks import META_TASK, members_about

Known = OrderedDict[str, OutgoingStep]
REMEMBERED: Final = 1_024  # tasks that nobody may ever ask for again


class Tasks:
    """One session's `send_request`, replaced on the instance until `remove`.

    known: tasks of other connections that are ours too.
    """

    def __init__(self, session: Any, known: Known | None = None) -> None:
        self._session: Final = session
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
        self._steps[task] = step
        while len(self._steps) > REMEMBERED:
            self._steps.popitem(last=False)
        return True

    async def send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """`ClientSession.send_request`; about a task of ours with our proof, about any other without."""
        return await self._original(self._proved(request), *args, **kwargs)  # type: ignore[misc]

    def _proved(self, request: Any) -> Any:
        method: str = getattr(request, "method", "")
        params: Any = getattr(request, "params", None)
        step = self._steps.get(getattr(params, "task_id", ""))
        if not method.startswith("tasks/") or step is None:
            return request
        sent: dict[str, Any] = params.model_dump(by_alias=True, mode="json", exclude_none=True)
        digest = digest_of(members_about(method, sent))
        meta = {**(params.meta or {}), META_TASK: {"proof": step.task_proof(digest)}}
        return request.model_copy(update={"params": params.model_copy(update={"meta": meta})})
