"""What passes between a guarded tool and its client, in mcp's own types."""

from __future__ import annotations

from mcp_types import (
    CallToolResult,
    CreateMessageRequest,
    ElicitRequest,
    ElicitRequestFormParams,
    ListRootsRequest,
    TextContent,
)

from stepwrit import shape, telemetry
from stepwrit._approving import is_page
from stepwrit.digest import body_digest, canonical
from stepwrit.errors import for_model
from stepwrit.wire import META_REFUSAL, Refusal


def refused_result(refusal: Refusal) -> CallToolResult:
    """A refusal as a tool's result: one line that a model may see, and the typed object beside it."""
    telemetry.call_refused(refusal.code)
    return CallToolResult(
        content=[TextContent(type="text", text=for_model(refusal))],
        is_error=True,
        _meta={META_REFUSAL: shape.write(refusal)},
    )


def unsupported(request: object, issuer: str | None = None) -> str | None:
    """What a server asks its client for that is no step yet; None for form elicitation.

    issuer: of the broker whose pages may be opened; None for no page at all.
    """
    if isinstance(request, CreateMessageRequest):
        return "sampling"
    if isinstance(request, ListRootsRequest):
        return "roots"
    if isinstance(request, ElicitRequest) and not isinstance(request.params, ElicitRequestFormParams):
        ours = issuer is not None and is_page(issuer, request.params.url)
        return None if ours else "URL elicitation"
    return None


def form_args(request: ElicitRequest) -> dict[str, object]:
    """The arguments of the step `client/elicitation`: digests, the broker need not read the question."""
    params = request.params.model_dump(mode="json", by_alias=True, exclude_none=True)
    schema = params.get("requestedSchema", {})
    return {
        "message": body_digest(str(params["message"]).encode()),
        "schema": body_digest(canonical(schema)),
    }
