"""`requestState`: what a waiting call keeps at its client, known to the broker by its digest for one round.

The tool's state travels inside ours, with a nonce: equal states of two rounds, or of two calls, differ.
What the broker was told with `wait` must come with the next accept. That keeps it whole, in its round and
with its step; mcp's seal keeps it secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from mcp.server.context import ServerRequestContext
from mcp_types import CallToolRequestParams, InputRequiredResult

from stepwrit._mcp_arrival import initiated_by
from stepwrit.digest import DigestError, body_digest, parse_json
from stepwrit.lineage import Step

KEY: Final = "dev.stepwrit/state"


def keep(step: Step, result: InputRequiredResult) -> str | None:
    """Put the result's state into ours, in place; the digest for `wait`, None where it has no state."""
    if result.request_state is None:
        return None
    members = {"v": 1, "nonce": step.broker.random_id(), "state": result.request_state}
    result.request_state = json.dumps({KEY: members})
    return digest_of(result.request_state)


def digest_of(state: str | None) -> str | None:
    """What `accept` is told of the state that arrived."""
    return None if state is None else body_digest(state.encode("utf-8", "surrogatepass"))


def take(params: CallToolRequestParams) -> None:
    """The tool sees its own state, as it left it. Only after the broker knew the digest."""
    try:
        read = parse_json(params.request_state or "null")
    except DigestError:
        return
    members = cast("Mapping[str, Any]", read).get(KEY) if isinstance(read, Mapping) else None
    if isinstance(members, Mapping):
        params.request_state = str(cast("Mapping[str, Any]", members)["state"])


def principal(ctx: ServerRequestContext[Any, Any]) -> str | None:
    """Whose round it is: transaction, step, initiator and its key; None for a call that carries no step.

    Not verified here: a token that does not hold is refused before the tool sees any state.
    """
    meta = (ctx.params or {}).get("_meta")
    return initiated_by(cast("Mapping[str, object]", meta) if isinstance(meta, Mapping) else None)
