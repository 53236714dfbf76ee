"""What crosses the wire for jobs that outlive their call: a deferred step, and the resuming of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwrit.wire import StepAccepted, V


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """`POST /v1/steps/{id}/resume`: the performer of a deferred step takes its next run."""

    v: int = V


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResumed(StepAccepted):
    """As for an accept, and the arguments that the step was opened with: its job holds nothing but the id."""

    args: dict[str, object] = field(repr=False)
