"""The one who asks, decided once at the edge."""

from __future__ import annotations

from dataclasses import dataclass

from stepwrit_broker.core.registry import Entry
from stepwrit_broker.core.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An attested and registered workload.

    jkt: thumbprint of the key it proved in this request (RFC 9449), or None. proof_jti, proof_until: the
    proof's own name and end, to be used once.
    """

    workload: Workload
    entry: Entry
    jkt: str | None = None
    proof_jti: str = ""
    proof_until: float = 0.0
