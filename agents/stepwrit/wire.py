"""Every shape and constant that crosses the wire; standard library only.

Evolution rule: each shape carries `v`. Within a version, members are only added, always with a default
that means what their absence meant before; a member is never renamed, retyped or given another meaning.
A peer of a version that is neither this one nor the one before gets `upgrade_required`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from stepwrit.wire_chain import PeerBroker

V: Final = 1
ACCEPTED_VERSIONS: Final = frozenset({1})

Origin = Literal["human", "model", "server"]
Impact = Literal["low", "medium", "high"]
Proof = Literal["bound", "presented"]
Outcome = Literal["done", "failed", "cancelled"]

# --- token types (`typ`), RFC 8725 section 3.11: explicit typing keeps them apart
TYP_STEP_TOKEN: Final = "txntoken+jwt"  # noqa: S105  draft-ietf-oauth-transaction-tokens
TYP_CREDENTIAL: Final = "at+jwt"  # RFC 9068
TYP_DPOP: Final = "dpop+jwt"  # RFC 9449
TYP_STEP_PROOF: Final = "stepwrit-step-proof+jwt"

CLAIM_STEP: Final = "https://stepwrit.dev/step"
ACTION_TYPE: Final = "stepwrit_action"  # RFC 9396 `type`

# --- RFC 8693 and transaction token strings
GRANT_TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105
CLIENT_ASSERTION_JWT_SPIFFE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
TOKEN_TYPE_TXN: Final = "urn:ietf:params:oauth:token-type:txn_token"  # noqa: S105
TOKEN_TYPE_ACCESS: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105
TOKEN_TYPE_ID: Final = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105
TOKEN_TYPE_UNSIGNED: Final = "urn:ietf:params:oauth:token-type:unsigned_json"  # noqa: S105
TOKEN_TYPE_STEP: Final = "urn:stepwrit:params:oauth:token-type:step"  # noqa: S105

# --- MCP `_meta` keys and HTTP headers
META_STEP: Final = "dev.stepwrit/step"
META_REFUSAL: Final = "dev.stepwrit/refusal"
META_REF: Final = "dev.stepwrit/ref"
HEADER_TXN_TOKEN: Final = "Txn-Token"  # noqa: S105
HEADER_OPERATION: Final = "Idempotency-Key"
HEADER_DPOP: Final = "DPoP"

# --- lives, seconds
STEP_TOKEN_S: Final = 60
STEP_TOKEN_MAX_S: Final = 300
CREDENTIAL_S: Final = 60
CREDENTIAL_MAX_S: Final = 900
ACCEPTED_MAX_S: Final = 900
WAITING_MAX_S: Final = 900
HEARTBEAT_S: Final = 20
HEARTBEAT_LOST_S: Final = 60
REDEEM_REPEAT_S: Final = 10
LEEWAY_S: Final = 5  # for freshness of proofs and tokens; 0 at redeem
BODY_MAX_BYTES: Final = 262_144
GUARD_BODY_MAX_BYTES: Final = 1_048_576

DOC_BASE: Final = "https://stepwrit.dev/docs/refusals#"

Code = Literal[
    # malformed
    "invalid_request", "invalid_arguments",
    "invalid_authorization_details", "invalid_target", "invalid_scope",
    "unsupported_grant_type", "unsupported_token_type", "upgrade_required",
    # unproven
    "unattested", "invalid_proof", "invalid_token", "invalid_grant", "use_dpop_nonce", "no_step",
    # refused
    "policy", "approval_required", "authorization_pending", "slow_down", "access_denied", "expired_token",
    "limit", "ceiling", "plan", "origin_claimed", "influence_claimed", "wrong_workload",
    "arguments_changed", "schema_changed", "request_changed", "state_changed", "replay", "already_done",
    "closed", "expired", "revoked", "frozen",
    "not_registered", "not_found", "not_yet_supported", "human_proof",
    # conflict
    "operation_reused", "stale_version", "wrong_state",
    # unavailable
    "unavailable", "outcome_unknown",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAsked:
    """What a step waits for: a signature of persons. The id and the page open nothing by themselves.

    step: ask for its token again, every `interval` seconds at most (RFC 8628 section 3.5). url: the page
    where persons sign. expires_in: seconds until it is too late.
    """

    id: str
    step: str
    url: str
    interval: int
    expires_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why not, or not yet: the one typed shape of every refusal, on every face.

    retry_after: seconds, or None when the same request cannot succeed later. `ref` opens nothing;
    `stepwrit explain REF` tells the whole story to who may see it.
    """

    code: str
    reason: str
    rule: str | None = None
    retry_after: float | None = None
    who_can_change_it: str | None = None
    ref: str | None = None
    doc: str | None = None
    approval: ApprovalAsked | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilingSpec:
    """What may be started: tools as `server/tool` or `server/*`, and the highest impact class."""

    tools: tuple[str, ...]
    impact: Impact = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a transaction may use up at most; None leaves the operator's limit."""

    steps: int | None = None
    server_steps: int | None = None
    depth: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentRequest:
    """`request_details` of an intent: purpose in the person's words, ceiling, life in seconds, budget."""

    purpose: str
    ceiling: CeilingSpec
    exp: int  # seconds since the epoch; the person's nonce binds this very value
    v: int = V
    budget: Budget = field(default_factory=Budget)
    cause: str | None = None  # id of the step that made a trigger's event
    without_step: str | None = None  # name of a server's own tool, for a call that came without a step


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStepRequest:
    """`POST /v1/steps`: the parent's performer opens a child. `server`: the tool server's URL, name or
    SPIFFE ID.
    """

    parent: str
    server: str
    tool: str
    args: dict[str, object] = field(repr=False)
    v: int = V
    ceiling: CeilingSpec | None = (
        None  # for the child's own children; absent: the parent's, narrowed by the registry
    )
    deferred: bool = False
    origin: str | None = (
        None  # nobody may say this: read only to refuse it by its own name (`origin_claimed`)
    )
    influence: tuple[str, ...] | None = (
        None  # the only steps whose results this one came of; only from an agent that the registry believes
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOpened:
    """The answer to `open` and to `token`: the step, and a token that lets its performer accept it."""

    step: str
    txn: str
    token: str = field(repr=False)
    expires_in: int
    origin: Origin
    performer: str
    ref: str
    v: int = V
    peer: PeerBroker | None = None  # whose broker the tool belongs to, where it is not this one


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptRequest:
    """`POST /v1/steps/{id}/accept`. `args`: digest of what arrived; `finding`: why the SDK itself refuses.

    schema: the digest of the tool's input schema as the performer serves it, where it is one.
    """

    token: str = field(repr=False)
    proof: str = field(repr=False)
    args: str
    v: int = V
    round: int = 1
    finding: str | None = None
    state: str | None = None  # base64url SHA-256 of the requestState that arrived
    schema: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HopSpec:
    """One step of a chain, oldest first."""

    step: str
    initiator: str
    performer: str
    origin: Origin
    tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanItem:
    """One line of a tool's plan: a request it may make at a resource, and how often."""

    at: str
    method: str
    path: str
    query: tuple[str, ...] = ()
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAccepted:
    """What the performer learns: who asked, what for, what its plan is and which clocks run."""

    step: str
    txn: str
    ref: str
    round: int
    origin: Origin
    requester: str | None = None
    purpose: str
    tool: str
    chain: tuple[HopSpec, ...]
    plan: tuple[PlanItem, ...]
    heartbeat_s: int
    ends_at: float
    self_grant: str | None = None
    deferred: bool = False
    v: int = V


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitRequest:
    """`POST /v1/steps/{id}/wait`: the call answered "input required"; the next round is `round + 1`."""

    round: int
    v: int = V
    state: str | None = None  # base64url SHA-256 of the requestState that the next round must bring


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRequest:
    """`POST /v1/steps/{id}/close`: the outcome is the performer's own word and is recorded as such."""

    outcome: Outcome
    v: int = V


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatus:
    """A step's state after heartbeat, wait or close. `revoked`: credentials that ended with it."""

    step: str
    state: str
    ref: str
    revoked: int = 0
    v: int = V


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDetails:
    """`authorization_details` of a credential: one request of the step's plan (RFC 9396)."""

    type: Literal["stepwrit_action"]
    method: str
    url: str
    body: str  # base64url SHA-256 of the body bytes as sent


@dataclass(frozen=True, slots=True, kw_only=True)
class RedeemRequest:
    """`POST /v1/redeem`: what the guard saw: the credential, the presenter's proof, the request it got."""

    token: str = field(repr=False)
    proof: str = field(repr=False)
    method: str
    url: str
    body: str
    v: int = V
    finding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeemed:
    """The go-ahead, once. `grant` doubles as the resource's idempotency key."""

    grant: str
    step: str
    txn: str
    ref: str
    tool: str
    origin: Origin
    requester: str | None = None
    performer: str
    chain: tuple[HopSpec, ...]
    v: int = V


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRequest:
    """`POST /v1/revocations`: one durable "no". `target`: `step:ID`, `txn:ID`, `workload:ID`, `tool:NAME`,
    …
    """

    verb: Literal["revoke", "freeze", "unfreeze"]
    target: str
    reason: str
    v: int = V


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkSet:
    """The mark is durable and in force."""

    target: str
    verb: str
    ref: str
    v: int = V
