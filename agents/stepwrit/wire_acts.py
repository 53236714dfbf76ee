"""What a server may make its client do, and where the proofs of it travel; standard library only.

Each act is a step of the built-in server `client`: origin `server`, below the step of the call that it comes
with, performed by that step's initiator. An act has one round. Evolution: as `stepwrit.wire`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from stepwrit.wire import Impact

META_STEPS: Final = "dev.stepwrit/steps"
"""In the `_meta` of an `InputRequiredResult` (2026-07-28): input key -> {token, proof}. On 2025-11-25 the
request's own `_meta["dev.stepwrit/step"]` has them."""

CLIENT: Final = "client"
ELICITATION: Final = "elicitation"  # a form
URL: Final = "url"  # a page that a person is sent to
SAMPLING: Final = "sampling"
ROOTS: Final = "roots"
NOTIFICATION: Final = "notification"  # of those that make the client act

ACTS: Final[Mapping[str, Impact]] = MappingProxyType(
    {ELICITATION: "low", URL: "medium", SAMPLING: "medium", ROOTS: "low", NOTIFICATION: "low"}
)
"""Every act and its impact class."""

NAMED: Final = frozenset({URL, SAMPLING, ROOTS})
"""Acts that a server may start only where its `may_start` names them, as `client/sampling` or `client/*`."""

OFFERED: Final = "tools"
"""The argument of a sampling that lists the tools offered to the model: of the asking server by their bare
name, of others as `server/tool`."""


def is_act(tool: str) -> bool:
    """Whether this is the name of a client's act, and not of a server's tool."""
    return tool.startswith(f"{CLIENT}/")
