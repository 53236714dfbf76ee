"""What crosses the wire for a task that a tool's call became: its initiator's proof over each request.

A task id is a name and opens nothing. In MCP each request about a task carries, in
`_meta["dev.stepwrit/task"] = {proof}`, a step proof (`typ stepwrit-step-proof+jwt`) of the step that the task
belongs to: `tkh` is the hash of the step's id in place of a token's, `args` the digest of `about_task`,
`round` is 1. The server, which performs the step, has the broker judge it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from stepwrit.digest import args_digest
from stepwrit.wire import V

META_TASK: Final = "dev.stepwrit/task"
ROUND: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendRequest:
    """`POST /v1/steps/{id}/attend`: the performer asks whether the step's initiator wants this, now.

    args: digest of what is wanted. changes: it changes the task, so the step must still live; otherwise it
    reads, and an ended step will do that was not revoked and whose transaction has not run out.
    """

    proof: str = field(repr=False)
    args: str
    changes: bool
    v: int = V


def members_about(method: str, params: Mapping[str, object]) -> dict[str, object]:
    """What is proved of a request about a task: its method and its params as sent, all but `_meta`."""
    return {"method": method, "params": {name: params[name] for name in params if name != "_meta"}}


def about_task(method: str, params: Mapping[str, object]) -> str:
    """The digest of `members_about`. Raises DigestError: the params are not JSON of one meaning."""
    return args_digest(members_about(method, params))
