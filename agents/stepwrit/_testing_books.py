"""What the in-memory broker remembers: tools, transactions, steps, grants, and what happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from stepwrit.wire import ApprovalAsked, HopSpec, Impact, Origin, PlanItem, Proof, Refusal, RequestDetails

STATUS: Final[dict[str, int]] = {
    **dict.fromkeys(
        ("invalid_request", "invalid_arguments", "invalid_authorization_details", "invalid_target"), 400
    ),
    **dict.fromkeys(("invalid_scope", "unsupported_grant_type", "upgrade_required"), 400),
    **dict.fromkeys(("unattested", "invalid_proof", "invalid_token", "use_dpop_nonce", "no_step"), 401),
    **dict.fromkeys(("not_found",), 404),
    **dict.fromkeys(("limit",), 429),
    **dict.fromkeys(("operation_reused", "stale_version", "wrong_state"), 409),
    **dict.fromkeys(("unavailable", "outcome_unknown"), 503),
}


class No(Exception):  # noqa: N818  reads as a verdict
    """The fake broker's refusal, on its way to being recorded and rendered."""

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        retry_after: float | None = None,
        approval: ApprovalAsked | None = None,
    ) -> None:
        super().__init__(f"{code}: {reason}")
        self.refusal: Final = Refusal(code=code, reason=reason, retry_after=retry_after, approval=approval)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool as the registry has it. plan None: the tool is its own resource."""

    name: str
    impact: Impact = "low"
    plan: tuple[PlanItem, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One tool server: callers may name it by name, URL or SPIFFE ID."""

    name: str
    spiffe_id: str
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """A knob's refusal of a tool. at: the verb that is refused."""

    tool: str
    refusal: Refusal
    at: Literal["open", "accept", "credential", "redeem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A knob's demand that somebody signs this tool's steps. then: what they do as soon as they are asked."""

    tool: str
    then: Literal["wait", "approve", "deny"] = "wait"


@dataclass(slots=True, kw_only=True)
class ApprovalRow:
    """One approval. state: asked, given, denied or expired. last: when it was asked about."""

    id: str
    expires_at: float
    state: str = "asked"
    last: float = float("-inf")
    interval_s: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What may be started below a step."""

    tools: tuple[str, ...]
    impact: Impact

    def allows(self, tool: Tool) -> bool:
        """Whether a child of this tool lies in it."""
        within = RANK[tool.impact] <= RANK[self.impact]
        return within and any(covers(each, tool.name) for each in self.tools)

    def within(self, other: Ceiling) -> bool:
        """Whether all that this allows, `other` allows too."""
        names = all(any(covers(wide, narrow) for wide in other.tools) for narrow in self.tools)
        return names and RANK[self.impact] <= RANK[other.impact]


RANK: Final[dict[str, int]] = {"low": 0, "medium": 1, "high": 2}


def covers(pattern: str, tool: str) -> bool:
    """Whether `server/tool`, `server/*` or `*` covers a tool or a narrower pattern."""
    return pattern in ("*", tool) or (pattern.endswith("/*") and tool.startswith(pattern[:-1]))


@dataclass(slots=True, kw_only=True)
class Txn:
    """One intent and what it set in motion."""

    id: str
    requester: str | None
    proof: Proof | None
    origin: Origin
    purpose: str
    expires_at: float
    without_step: str | None = None


@dataclass(slots=True, kw_only=True)
class StepRow:
    """One step. A root has no tool and no parent. round counts from 1, 0 before accept."""

    id: str
    txn: Txn
    parent: StepRow | None
    initiator: str
    jkt: str
    performer: str
    origin: Origin
    tool: Tool | None
    args: str | None
    ceiling: Ceiling
    chain: tuple[HopSpec, ...]
    deferred: bool
    ref: str
    state: str = "opened"
    round: int = 0
    sealed: dict[str, object] = field(default_factory=dict[str, object], repr=False)  # of a deferred step
    tokens: set[str] = field(default_factory=set)  # jti of every step token that still counts
    approval: ApprovalRow | None = None
    awaits: str | None = None  # digest of the requestState that the next round must bring
    attended: set[str] = field(default_factory=set)  # jti of every proof over its task

    def line(self) -> list[StepRow]:
        """This step and all above it."""
        row: StepRow | None = self
        rows: list[StepRow] = []
        while row is not None:
            rows.append(row)
            row = row.parent
        return rows


@dataclass(slots=True, kw_only=True)
class GrantRow:
    """One credential."""

    id: str
    step: StepRow
    audience: str
    jkt: str
    request: str
    line: int
    details: RequestDetails
    expires_at: float
    ref: str
    state: str = "issued"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened. code: of a refusal, else None."""

    kind: str
    ref: str
    caller: str
    code: str | None = None
    tool: str | None = None
    step: str | None = None
    txn: str | None = None
    grant: str | None = None
    origin: Origin | None = None


class Ledger:
    """What happened, oldest first."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def reasons(self) -> list[str]:
        """The codes of all refusals, oldest first."""
        return [entry.code for entry in self.entries if entry.code is not None]

    def kinds(self) -> list[str]:
        """What happened, in single words, oldest first."""
        return [entry.kind for entry in self.entries]

    def of(self, kind: str) -> list[Entry]:
        """All entries of one kind."""
        return [entry for entry in self.entries if entry.kind == kind]
