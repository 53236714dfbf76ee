"""The hook on an MCP session: every call of a tool is a step, every round has its own token.

On the session, because `Client.call_tool` resends the same `_meta` in each round and hands what the server
asks for to its callbacks; the session sees each round, and each `InputRequiredResult` before anyone answers.
What a server asks for is the business of `_hook_acts`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from stepwrit._hook_tasks import Known, Tasks
from stepwrit._outgoing import OutgoingStep, digest_of
from stepwrit._reply import local
from stepwrit.errors import ConfigurationError, IdentityUnavailable, RefusedError

if TYPE_CHECKING:
    from mcp_types import CallToolResult

    from stepwrit._hook_acts import Acts

OnRefusal = Literal["result", "raise"]
Opener = Callable[[str, str, dict[str, object]], Awaitable[OutgoingStep]]

REMEMBERED: Final = 256  # rounds that nobody may ever come back to


def hook(
    client: object, server: str | None, opener: Opener, on_refusal: OnRefusal, known: Known | None = None
) -> SessionHook:
    """Guard an mcp `Client` or `ClientSession`. server: None takes it from a client that knows its URL.

    known: tasks of other connections that are ours too.

    Raises:
        ConfigurationError: nobody says which server it is, or the session is guarded already.
    """
    from stepwrit._hook_acts import Acts  # noqa: PLC0415  the `mcp` extra is needed only by whoever guards

    session = getattr(client, "session", client)
    name = server or _server_of(client)
    acts = Acts(session)
    made = SessionHook(session, name, opener, on_refusal, acts, Tasks(session, acts, name, known))
    made.install()
    return made


class SessionHook:
    """One session's methods, replaced on the instance until `remove`."""

    def __init__(
        self, session: Any, server: str, opener: Opener, on_refusal: OnRefusal, acts: Acts, tasks: Tasks
    ) -> None:
        self._session: Final = session
        self._server: Final = server
        self._opener: Final = opener
        self._on_refusal: Final = on_refusal
        self._acts: Final = acts
        self._original: Final = session.call_tool
        self._tasks: Final = tasks
        self._open: Final[OrderedDict[_Key, list[OutgoingStep]]] = OrderedDict()

    def install(self) -> None:
        """Take the place of the session's methods. Raises ConfigurationError if another hook has it."""
        if isinstance(getattr(self._original, "__self__", None), SessionHook):
            raise ConfigurationError("this session is guarded already")
        self._session.call_tool = self.call_tool
        self._acts.install()
        self._tasks.install()

    def remove(self) -> None:
        """Give the place back."""
        if getattr(self._session.call_tool, "__self__", None) is self:
            del self._session.call_tool
            self._acts.remove()
            self._tasks.remove()

    async def call_tool(
        self, name: str, arguments: dict[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> object:
        """`ClientSession.call_tool` with a step. A refusal is an `isError` result, or raised."""
        try:
            return await self._call(name, arguments, args, kwargs)
        except RefusedError as no:
            if self._on_refusal == "raise":
                raise
            return _refused(no)
        except IdentityUnavailable as missing:
            if self._on_refusal == "raise":
                raise
            return _refused(RefusedError(local("unavailable", str(missing))))

    async def _call(
        self, name: str, arguments: dict[str, Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        from mcp import MCPError  # noqa: PLC0415  the `mcp` extra is needed only by whoever guards a session
        from mcp_types import (  # noqa: PLC0415
            HEADER_MISMATCH,
            URL_ELICITATION_REQUIRED,
            InputRequiredResult,
        )

        digest = digest_of(arguments)
        resumed = kwargs.get("input_responses") is not None or kwargs.get("request_state") is not None
        key = name, digest, resumed, cast("str | None", kwargs.get("request_state"))
        step, meta = await self._round(key, name, arguments)
        sent = {**kwargs, "meta": {**(kwargs.get("meta") or {}), **meta}}
        try:
            with self._acts.within(step):
                result = await step.kept(lambda: self._original(name, arguments, *args, **sent))
        except MCPError as error:
            if error.code == HEADER_MISMATCH:  # nobody saw the call; the client sends it once more
                self._remember((*key, "resend"), step)
            if error.code == URL_ELICITATION_REQUIRED:  # the host shows the page, then calls again
                await self._acts.pages(step, error)
                self._remember((name, digest, "page"), step)
            if error.code not in (HEADER_MISMATCH, URL_ELICITATION_REQUIRED):
                await step.finished("failed")
            raise
        except RefusedError:
            await step.finished("cancelled")
            raise
        if isinstance(result, InputRequiredResult):
            await self._acts.arrived(step, result)
            self._remember((name, digest, True, result.request_state), step)
        elif not self._tasks.made(step, result):
            await step.finished("failed" if getattr(result, "is_error", False) else "done")
        return cast("object", result)

    async def _round(
        self, key: _Key, name: str, arguments: dict[str, Any] | None
    ) -> tuple[OutgoingStep, dict[str, object]]:
        unseen = self._recall((*key, "resend"))
        if unseen is not None:
            return unseen, unseen.same_meta()
        step = self._recall(key) if key[2] else self._recall((*key[:2], "page"))
        step = step or await self._opener(self._server, name, arguments or {})
        await self._acts.answered(step)
        return step, await step.meta()

    def _remember(self, key: _Key, step: OutgoingStep) -> None:
        self._open.setdefault(key, []).append(step)
        while len(self._open) > REMEMBERED:
            self._open.popitem(last=False)

    def _recall(self, key: _Key) -> OutgoingStep | None:
        steps = self._open.get(key)
        step = steps.pop(0) if steps else None
        if steps == []:
            del self._open[key]
        return step


_Key = tuple[object, ...]


def _refused(no: RefusedError) -> CallToolResult:
    from stepwrit._mcp_inputs import refused_result  # noqa: PLC0415  needs the `mcp` extra

    return refused_result(no.refusal)


def _server_of(client: object) -> str:
    """The registry knows a server by its URL too; an in-process one goes by its name.

    FastMCP's client keeps both in its transport.
    """
    transport = getattr(client, "transport", None)
    target = getattr(client, "server", None) or getattr(transport, "url", None)
    target = target or getattr(transport, "server", None)
    if isinstance(target, str):
        return target
    name = getattr(target, "name", None)
    if isinstance(name, str) and name and hasattr(target, "call_tool"):
        return name
    raise ConfigurationError("say which server this is: guard(client, server=<registry name or URL>)")
