"""[approvals]: the persons' side of approvals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from stepwrit_broker.config_reader import Means

SESSION_MAX_S = 43_200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalsTable:
    """The approval pages on the `tls` listener."""

    session_s: Annotated[
        float,
        Means(
            text="How long a person who signed in sees the pages; at most 12 hours. It signs nothing: every "
            "approval needs the passkey, or signing in, again.",
            unit="seconds",
            least=60,
        ),
    ] = 900.0


def approvals_problems(approvals: ApprovalsTable) -> Iterator[str]:
    """Every problem of meaning, one a line."""
    if not math.isfinite(approvals.session_s) or approvals.session_s > SESSION_MAX_S:
        yield f"approvals.session_s: at most {SESSION_MAX_S:g}"
