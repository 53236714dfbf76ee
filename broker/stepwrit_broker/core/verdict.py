"""One question to every policy engine, and its closed set of answers. Empty means no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Asking = Literal["start_intent", "open_step", "issue_credential"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The decision document, already JSON, and the parts that engines name: principal, action, resource."""

    asking: Asking
    principal: str
    resource: str
    document: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Yes. `policies`: the determining ones."""

    policies: tuple[str, ...]
    obligations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsApproval:
    """Not without the requester's signature. `setting`: what an operator would change."""

    policies: tuple[str, ...]
    setting: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """No. `reason` is a fixed sentence; policy text is never shown."""

    policies: tuple[str, ...]
    reason: str


Verdict = Permit | NeedsApproval | Deny
