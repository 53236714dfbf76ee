"""What passes between a guarded tool and its client, in mcp's own types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

from mcp import MCPError
from mcp_types import (
    INVALID_REQUEST,
    CallToolResult,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitCompleteNotification,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ErrorData,
    ListRootsRequest,
    NotificationParams,
    PromptListChangedNotification,
    RequestParams,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    TextContent,
    ToolListChangedNotification,
)

from stepwrit import shape, telemetry
from stepwrit._acts import Ask
from stepwrit._reply import Garbled, answer, local
from stepwrit.digest import DigestError, body_digest, canonical
from stepwrit.errors import RefusedError, for_model
from stepwrit.wire import META_REFUSAL, Refusal
from stepwrit.wire_acts import ELICITATION, NOTIFICATION, OFFERED, ROOTS, SAMPLING, URL

_ACTING = (
    ToolListChangedNotification,
    PromptListChangedNotification,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    ElicitCompleteNotification,
)


def refused_result(refusal: Refusal) -> CallToolResult:
    """A refusal as a tool's result: one line that a model may see, and the typed object beside it."""
    telemetry.call_refused(refusal.code)
    return CallToolResult(
        content=[TextContent(type="text", text=for_model(refusal))],
        is_error=True,
        _meta={META_REFUSAL: shape.write(refusal)},
    )


def ask_of(request: object) -> Ask | None:
    """What this makes a client do; None for what makes it do nothing, as a ping.

    The same on both sides, from the request as it was parsed: digests, and what policy may want to know.

    Raises:
        RefusedError: `invalid_arguments`: it holds numbers that are not exact.
    """
    match request:
        case CreateMessageRequest(params=params):
            return Ask(act=SAMPLING, args=_sampling(params))
        case ElicitRequest(params=ElicitRequestFormParams() as form):
            said = _said(form)
            parts = {"message": said["message"], "schema": said.get("requestedSchema", {})}
            return Ask(act=ELICITATION, args={name: _digest(each) for name, each in parts.items()})
        case ElicitRequest(params=ElicitRequestURLParams(url=url) as page):
            said = {name: each for name, each in _said(page).items() if name != "elicitationId"}
            return Ask(act=URL, args={"host": _host(url), "content": _digest(said)})
        case ListRootsRequest():
            return Ask(act=ROOTS, args={})
        case _:
            return None


def told_of(message: object) -> Ask | None:
    """What this notification makes a client do; None for what only informs, and for what is none."""
    if not isinstance(message, _ACTING):
        return None
    said = {} if message.params is None else _said(message.params)
    return Ask(act=NOTIFICATION, args={"method": message.method, "content": _digest(said)})


def _sampling(params: CreateMessageRequestParams) -> dict[str, object]:
    facts: dict[str, object] = {
        "content": _digest(_said(params)),
        "messages": len(params.messages),
        "max_tokens": params.max_tokens,
        "include_context": params.include_context or "none",
    }
    if params.tools:
        facts[OFFERED] = [each.name for each in params.tools]
    return facts


def _said(params: RequestParams | NotificationParams) -> dict[str, object]:
    """As it travels, without what is not the question."""
    return params.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"meta", "task"})


def _digest(value: object) -> str:
    try:
        return body_digest(canonical(value))
    except DigestError as bad:
        raise RefusedError(local("invalid_arguments", str(bad))) from None


def _host(url: str) -> str:
    """Empty for what has none, so that the step can still be refused as the step it is."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def refusal_in(error: ErrorData) -> Refusal | None:
    """The refusal that the other side told with this error, if it told one."""
    data = cast("Mapping[str, object]", error.data) if isinstance(error.data, Mapping) else {}
    said = data.get(META_REFUSAL)
    try:
        return answer(Refusal, cast("Mapping[str, object]", said)) if isinstance(said, Mapping) else None
    except Garbled:
        return None


def refused_error(refusal: Refusal) -> ErrorData:
    """A refusal as JSON-RPC's error, for a server whose question is not answered."""
    return ErrorData(
        code=INVALID_REQUEST, message=for_model(refusal), data={META_REFUSAL: shape.write(refusal)}
    )


def refusal_error(refusal: Refusal) -> MCPError:
    """The same, to be raised: for requests whose results have no room for a refusal."""
    telemetry.call_refused(refusal.code)
    said = refused_error(refusal)
    return MCPError(code=said.code, message=said.message, data=said.data)
