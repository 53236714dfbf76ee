"""A guarded tool's child must be signed first: the page goes to the client, and the call goes on after it.

Through URL-mode elicitation: in an `InputRequiredResult` on 2026-07-28, as error -32042 on 2025-11-25. The
one exception to what guarded tools may ask of their client, and only for a page of our own broker. What the
client answers is no approval: it says that the page was opened, and after it the broker is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from mcp import UrlElicitationRequiredError
from mcp.server.context import ServerRequestContext
from mcp_types import (
    CallToolRequestParams,
    ElicitRequest,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
)

from stepwrit import shape
from stepwrit._approving import is_page
from stepwrit._reply import Garbled, answer
from stepwrit.digest import DigestError, parse_json
from stepwrit.lineage import Awaited, Step

KEY: Final = "dev.stepwrit/approval"
WAIT_S: Final = 60.0
MODERN: Final = "2026-07-28"
_MEMBERS: Final = ("input_responses", "request_state")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """What goes to the client, in the form of its protocol version. kept: signed, and unused."""

    awaited: Awaited
    kept: tuple[Awaited, ...]
    is_modern: bool

    def result(self, params: CallToolRequestParams) -> InputRequiredResult:
        """2026-07-28. What earlier rounds answered travels along, so that nobody is asked for it again."""
        request = ElicitRequest(params=self._params(None))
        return InputRequiredResult(input_requests={KEY: request}, request_state=self._state(params))

    def error(self) -> UrlElicitationRequiredError:
        """2025-11-25. The client shows the page, then makes the same call again."""
        return UrlElicitationRequiredError([self._params(self.awaited.asked.id)])

    def _params(self, name: str | None) -> ElicitRequestURLParams:
        asked = self.awaited.asked
        message = f"A person must sign {self.awaited.server}/{self.awaited.tool} first, on the broker's page."
        return ElicitRequestURLParams(message=message, url=asked.url, elicitation_id=name)

    def _state(self, params: CallToolRequestParams) -> str:
        """Names only; mcp seals it to this call on its way out."""
        before = params.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(_MEMBERS))
        waits = [shape.write(each) for each in (self.awaited, *self.kept)]
        return json.dumps({KEY: {"v": 1, "awaited": waits, "before": before}})


def handed(step: Step, ctx: ServerRequestContext[Any, Any], issuer: str) -> Handed | None:
    """What may be handed over of what the body let pass; None where the refusal is the answer."""
    awaited, capabilities = step.awaited, ctx.session.client_capabilities
    elicitation = None if capabilities is None else capabilities.elicitation
    if awaited is None or elicitation is None or elicitation.url is None:
        return None
    if not is_page(issuer, awaited.asked.url):
        return None
    kept = tuple(step.unused())
    _remember(step, kept)
    return Handed(awaited=awaited, kept=kept, is_modern=ctx.protocol_version >= MODERN)


def _remember(step: Step, awaited: Iterable[Awaited]) -> None:
    for each in awaited:
        step.broker.pending.restore(each.call_of(step.id), each.asked)


def resume(step: Step, params: CallToolRequestParams, wait_s: float) -> None:
    """Put this round where the one before it stood, and let it wait if the client opened the page.

    params is changed: the tool and its resolvers see what they saw when the page was handed over.
    """
    said = _ours(params.request_state)
    if said is None:
        step.patience_s = wait_s if step.round > 1 else 0.0
        return
    awaited, before = said
    _remember(step, awaited)
    answered = (params.input_responses or {}).get(KEY)
    step.patience_s = wait_s if isinstance(answered, ElicitResult) and answered.action == "accept" else 0.0
    earlier = CallToolRequestParams.model_validate({"name": params.name, **before})
    for name in _MEMBERS:
        setattr(params, name, getattr(earlier, name))


def _ours(state: str | None) -> tuple[list[Awaited], Mapping[str, Any]] | None:
    """What a state of ours holds; None for the tool's own."""
    try:
        read = parse_json(state or "null")
        own = cast("Mapping[str, Any]", read).get(KEY) if isinstance(read, Mapping) else None
        if not isinstance(own, Mapping):
            return None
        members = cast("Mapping[str, Any]", own)
        return [answer(Awaited, each) for each in members["awaited"]], members["before"]
    except (DigestError, Garbled, KeyError, TypeError, AttributeError):
        return None
