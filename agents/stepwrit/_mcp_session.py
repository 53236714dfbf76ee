"""The session that a guarded tool sees: what it asks of its client is a step of its own, or refused.

On 2025-11-25 a tool asks in the middle of its call, through its session (`GuardedSession`); on 2026-07-28 it
returns what it asks (`proven`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from mcp import MCPError, UrlElicitationRequiredError
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp_types import ElicitRequest, InputRequiredResult, NotificationParams, RequestParams, methods

from stepwrit._acts import Ask, open_act
from stepwrit._mcp_inputs import ask_of, refusal_in, told_of
from stepwrit._reply import local
from stepwrit.lineage import Step, entered
from stepwrit.wire import META_STEP
from stepwrit.wire_acts import META_STEPS


async def pages(step: Step, error: MCPError) -> MCPError:
    """Error -32042 of 2025-11-25 with the proof of a step for each page that it asks to open.

    Raises:
        RefusedError: the broker's no.
    """
    data = {**cast("dict[str, object]", error.error.data or {})}
    asked = UrlElicitationRequiredError.from_error(error.error).elicitations
    with entered(step):
        proofs = {
            each.elicitation_id or str(at): await open_act(step, _known(step, ElicitRequest(params=each)))
            for at, each in enumerate(asked)
        }
    data["_meta"] = {META_STEPS: proofs}
    return MCPError(code=error.error.code, message=error.error.message, data=data)


async def proven(step: Step, result: InputRequiredResult, version: str) -> InputRequiredResult:
    """The result with the proof of a step for each thing it asks for; nothing is asked if one is refused.

    version: of the protocol, which says what of it reaches the client.

    Raises:
        RefusedError: the broker's no, or `not_yet_supported` for what is no step.
    """
    asked = {
        key: _known(step, each) for key, each in (_arriving(result, version).input_requests or {}).items()
    }
    proofs = {key: await open_act(step, ask) for key, ask in asked.items()}
    if not proofs:
        return result
    meta = {**(result.meta or {}), META_STEPS: proofs}
    return result.model_copy(update={"meta": meta})


def _arriving(result: InputRequiredResult, version: str) -> InputRequiredResult:
    """As the client will read it: what the protocol's version does not know is left out on the wire."""
    said = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    try:
        said = methods.serialize_server_result("tools/call", version, said)
    except (ValueError, KeyError):  # mcp will say so better than we can
        return result
    return InputRequiredResult.model_validate(said, by_name=False)


def _known(step: Step, request: object) -> Ask:
    ask = ask_of(request)
    if ask is None:
        raise step.note(local("not_yet_supported", f"{type(request).__name__} from a guarded tool"))
    return ask


class GuardedSession(ServerSession):
    """The same session, whose requests to the client are asked for first."""

    _step: Step

    @classmethod
    def around(cls, session: ServerSession, step: Step) -> GuardedSession:
        """A twin of `session` for one call."""
        twin = cls.__new__(cls)
        vars(twin).update(vars(session))
        twin._step = step
        return twin

    async def send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Ask the broker, then the client.

        Raises:
            RefusedError: the broker's no, or the client's.
        """
        ask = ask_of(request)
        if ask is None:
            return await super().send_request(request, *args, **kwargs)
        with entered(self._step):  # also where it passes on what another server asked of us
            proof = await open_act(self._step, ask)
        try:
            return await super().send_request(_with(request, proof), *args, **kwargs)
        except MCPError as error:
            no = refusal_in(error.error)
            if no is None:
                raise
            raise self._step.note(no) from None

    async def send_notification(self, notification: Any, *args: Any, **kwargs: Any) -> None:
        """Ask the broker first for what makes the client act. Raises RefusedError: the broker's no."""
        told = told_of(notification)
        if told is not None:
            with entered(self._step):
                proof = await open_act(self._step, told)
            notification = _with(notification, proof, NotificationParams)
        await super().send_notification(notification, *args, **kwargs)


def _with(request: Any, proof: dict[str, object], kind: type[Any] = RequestParams) -> Any:
    """The message with its proof in its own `_meta`."""
    params = request.params or kind()
    meta = {**(params.meta or {}), META_STEP: proof}
    return request.model_copy(update={"params": params.model_copy(update={"meta": meta})})


def guarded(ctx: ServerRequestContext[Any, Any], step: Step) -> ServerRequestContext[Any, Any]:
    """The context that the tool's body gets."""
    return replace(ctx, session=GuardedSession.around(ctx.session, step))
