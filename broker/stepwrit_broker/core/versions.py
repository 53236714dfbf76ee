"""Which policy, registry, limits and bundles a decision was made on; a reservation on others is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VersionKind = Literal["policy", "registry", "limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Version numbers in force; `bundles` is the generation of the trust bundles."""

    policy: int
    registry: int
    limits: int
    bundles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVersion:
    """One version of a document. `source`: its file, or `run-time`. `doc`: canonical JSON or text.

    ref: of its entry in the ledger.
    """

    kind: VersionKind
    number: int
    digest: str
    source: str
    doc: str
    by: str
    reason: str
    at: float
    ref: str = ""
