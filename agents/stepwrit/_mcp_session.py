"""The session that a guarded tool sees: what it asks of its client is a step, or refused.

On 2025-11-25 a tool asks in the middle of its call, through its session; on 2026-07-28 it returns what it
asks. Both come through `Asking`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp_types import ElicitRequest

from stepwrit._mcp_inputs import form_args, unsupported
from stepwrit._reply import local
from stepwrit.errors import RefusedError
from stepwrit.lineage import Step
from stepwrit.wire import CeilingSpec, OpenStepRequest

CLIENT: Final = "client"
ELICITATION: Final = "elicitation"


async def ask(step: Step, request: object) -> None:
    """Open the low-impact server step of a form elicitation; anything else that is no ask passes.

    Raises:
        RefusedError: the broker's no, or `not_yet_supported` for sampling, roots and URL elicitation.
    """
    what = unsupported(request)
    if what is not None:
        raise step.note(local("not_yet_supported", f"{what} from a guarded tool"))
    if not isinstance(request, ElicitRequest):
        return
    try:
        await step.broker.open(
            OpenStepRequest(
                parent=step.id,
                server=CLIENT,
                tool=ELICITATION,
                args=form_args(request),
                ceiling=CeilingSpec(tools=(), impact="low"),
            )
        )
    except RefusedError as no:
        step.refused = no.refusal
        raise


async def ask_all(step: Step, requests: Iterable[object]) -> None:
    """All or none reach the person: what is unsupported is refused before the first step is opened."""
    asked = list(requests)
    for request in asked:
        what = unsupported(request)
        if what is not None:
            raise step.note(local("not_yet_supported", f"{what} from a guarded tool"))
    for request in asked:
        await ask(step, request)


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
        """Ask the broker, then the client."""
        await ask(self._step, request)
        return await super().send_request(request, *args, **kwargs)


def guarded(ctx: ServerRequestContext[Any, Any], step: Step) -> ServerRequestContext[Any, Any]:
    """The context that the tool's body gets."""
    return replace(ctx, session=GuardedSession.around(ctx.session, step))
