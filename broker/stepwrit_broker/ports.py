"""The one seam between flows and the world. Docstrings state MUSTs; one contract suite per port tests them.

Every changing call of `Store` is ONE atomic, durable operation: its rows, its ledger entry, its counters and
its operation id stand together or not at all, and when it returns they have been committed to stable storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stepwrit.tokens import CredentialClaims, StepToken
from stepwrit.wire import Outcome
from stepwrit_broker.core.approval import Ask
from stepwrit_broker.core.grant import Grant, GrantRecord
from stepwrit_broker.core.influence import Past
from stepwrit_broker.core.limits import Charge, Limits
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.core.step import Step, StepRecord
from stepwrit_broker.core.verdict import Question, Verdict
from stepwrit_broker.core.versions import StoredVersion, VersionKind, Versions
from stepwrit_broker.core.workload import SpiffeId


class Clock(Protocol):
    """Wall-clock time. MUST NOT be read anywhere else."""

    def now(self) -> float:
        """Seconds since the epoch. MUST raise Unavailable(`unavailable`, rule="clock") when it jumped
        (doubt).
        """
        ...


class Entropy(Protocol):
    """Unpredictable bytes. MUST be a cryptographic source."""

    def bytes(self, count: int) -> bytes:
        """`count` fresh random bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A caller's name for one try of one verb. Its scope is (caller, key, verb).

    The same id with the same digest MUST get the first answer; with another digest MUST raise
    Conflict(`operation_reused`). Looked up before proofs, limits and budget.
    """

    caller: str
    key: str
    verb: str
    id: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofUse:
    """A proof that may be used once: a DPoP `jti`, an ID token. `until`: seconds since the epoch."""

    kind: str
    key: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPin:
    """A bearer document and the first key that was shown with it.

    svid: digest of a JWT-SVID. jkt: thumbprint of the key. until: the document's end, seconds since the
    epoch. proofs: key proofs that no later write of this request will use up.
    """

    svid: str
    jkt: str
    until: float
    proofs: tuple[ProofUse, ...]
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a ledger entry says beyond the rows: JSON. `decision` is kept beside the log under its salted
    digest.
    """

    facts: Mapping[str, object] = field(default_factory=dict)
    decision: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCommand:
    """Open an intent's root (`step.parent` is None) or a child; `ask`: persons must sign it first. times: how
    many steps of its label there may be under its parent, where it has one. sealed: a deferred step's
    arguments, sealed for its id.
    """

    op: Operation
    step: Step
    proofs: tuple[ProofUse, ...]
    subjects: tuple[str, ...]
    charge: Charge
    versions: Versions | None
    evidence: Evidence
    now: float
    ask: Ask | None = None
    times: int | None = None
    sealed: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptCommand:
    """Accept a step's current round. `self_grant`: for a tool that is its own resource, made in the same
    write. `versions`: what it was decided under, None where nothing was; others in force are a Conflict
    (`stale_version`). stands_in: by the step's initiator, for a performer of another trust domain's broker.
    state: digest of the requestState that arrived, "" for none; it must be the one that the wait before
    named (Refused `state_changed`).
    """

    op: Operation
    step: str
    caller: SpiffeId
    round: int
    subjects: tuple[str, ...]
    proofs: tuple[ProofUse, ...]
    self_grant: Grant | None
    evidence: Evidence
    now: float
    versions: Versions | None = None
    stands_in: bool = False
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeCommand:
    """Take the next run of a deferred step. `self_grant`, `versions`: as for an accept; versions always."""

    op: Operation
    step: str
    caller: SpiffeId
    subjects: tuple[str, ...]
    proofs: tuple[ProofUse, ...]
    charge: Charge
    self_grant: Grant | None
    versions: Versions
    evidence: Evidence
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveCommand:
    """Stage 5 of a credential. `line_times`: how often this plan line may be used by the step."""

    op: Operation
    grant: Grant
    caller: SpiffeId
    line_times: int
    proofs: tuple[ProofUse, ...]
    subjects: tuple[str, ...]
    charge: Charge
    versions: Versions
    evidence: Evidence
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RedeemCommand:
    """Spend a grant once. `request`: the digest of the request that the guard got; `jkt`: the presenter's
    key.
    """

    op: Operation
    grant: str
    redeemer: SpiffeId
    audience: str
    jkt: str
    request: str
    subjects: tuple[str, ...]
    proofs: tuple[ProofUse, ...]
    evidence: Evidence
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveCommand:
    """`wait`, `heartbeat` or `close` by the step's performer. `round` is for `wait`, and so is `state`: the
    digest of the requestState that the next round must bring, "" for none.
    """

    op: Operation
    step: str
    caller: SpiffeId
    verb: str
    outcome: Outcome | None
    round: int
    ref: str
    evidence: Evidence
    now: float
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendCommand:
    """The step's initiator asks its performer about the task that the step became. `changes`: to change
    it.
    """

    op: Operation
    step: str
    caller: SpiffeId
    changes: bool
    subjects: tuple[str, ...]
    proofs: tuple[ProofUse, ...]
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkCommand:
    """Write one mark, or lift a freeze (`lift`). Uses the reserved room: it works when nothing else does.

    proofs: what may ask for it once. yields: a mark by somebody else, or for another reason, stays as it is.
    """

    op: Operation
    mark: Mark
    lift: bool
    evidence: Evidence
    now: float
    proofs: tuple[ProofUse, ...] = ()
    yields: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCommand:
    """Apply a new version of a document. `expected`: the version it replaces; another one in force is a
    Conflict.
    """

    kind: VersionKind
    expected: int
    digest: str
    source: str
    doc: str
    by: str
    reason: str
    ref: str
    marks: tuple[Mark, ...]
    lifts: tuple[str, ...]
    evidence: Evidence
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """A ledger entry of its own, outside any verb: a refusal, a counting entry, a start, a key."""

    kind: str
    ref: str
    tenant: str | None
    txn: str | None
    evidence: Evidence
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A step after a move; `revoked` counts the unredeemed and redeemed grants that ended with it."""

    record: StepRecord
    revoked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaped:
    """What one sweep ended and purged."""

    steps: int
    grants: int
    purged: int


class Store(Protocol):
    """Steps, grants, marks, proofs, operations, versions and the ledger's entries.

    MUSTs common to all changing calls:
    - expiry and freshness use max(`now`, the stored high-water time); the high-water time never goes back;
    - `subjects` are tested against all standing marks inside the atomic call (Refused `revoked`/`frozen`);
    - a `ProofUse` that was seen raises Refused(`replay`), unless the same Operation is being repeated;
    - a refused call changes nothing, not even counters;
    - failures of the store itself raise Unavailable(rule="store"); whether the write landed is then unknown
      to the caller, who repeats with the same Operation.
    """

    async def open(self, command: OpenCommand) -> StepRecord:
        """Open a root or a child. MUST test that the parent is live (accepted, or a root not expired),
        opened by its performer, within its transaction's bounds, and the versions (Conflict
        `stale_version`). With `ask` the step waits for its approval, and MUST be refused (`limit`) where
        its persons are asked too much. With `times` fewer steps of its label MUST be under its parent
        (Conflict `stale_version`): it is then decided afresh. A root with a cause MUST be held to it
        (`core.causes.inherit`, with the cause's fan-out, which counts it), and the cause's story MUST tell of
        it.
        """
        ...

    async def accept(self, command: AcceptCommand) -> tuple[StepRecord, Grant | None]:
        """Accept round `round` (1, or the one after `wait`), by a workload that the step's performer
        pattern covers, or by its initiator that stands in. A second accept of the same round MUST raise
        Refused(`replay`). The first accept uses the step's approval up.
        """
        ...

    async def resume(self, command: ResumeCommand) -> tuple[StepRecord, Grant | None]:
        """Take the next run of a deferred step that was opened or waits, by any workload that its performer
        pattern covers: round + 1, with an entry. One that runs MUST raise Refused(`replay`) that says when it
        would be lost; a step that is not deferred Conflict(`wrong_state`). The first run uses the step's
        approval up. Once another run was taken, an earlier one's Operation MUST raise Refused(`replay`).
        """
        ...

    async def sealed_args(self, step: str) -> bytes | None:
        """What `OpenCommand.sealed` was, while the step lives; None afterwards: it is erased with its end."""
        ...

    async def reserve(self, command: ReserveCommand) -> GrantRecord:
        """Reserve a grant: marks, versions, plan count (live and redeemed ones), limits, row, entry,
        epoch: one call. The step MUST be accepted and performed by `caller`.
        """
        ...

    async def redeem(self, command: RedeemCommand) -> tuple[GrantRecord, StepRecord]:
        """Spend exactly once under a unique grant id. Wrong audience, key or request MUST spend nothing
        (Refused `wrong_workload`, `invalid_proof`, `request_changed`); an older epoch MUST be refused
        (`expired`). The first answer is repeated for an equal Operation for REDEEM_REPEAT_S, then
        Refused(`replay`).
        """
        ...

    async def move(self, command: MoveCommand) -> Moved:
        """`wait`, `heartbeat`, `close`. Close ends the step's own grants and its non-deferred children,
        all the way down; a root that is closed as anything but `done` ends its deferred steps too.
        """
        ...

    async def attend(self, command: AttendCommand) -> StepRecord:
        """The step as it is, once its clocks, its intent's state and all marks above it allow to ask about
        it (`core.attending`). MUST spend the proofs in the same call, and change nothing else.
        """
        ...

    async def mark(self, command: MarkCommand) -> Mark:
        """Durable before it returns, in force at once, also anchored. Unknown freeze to lift:
        Refused(`not_found`).
        """
        ...

    async def apply(self, command: VersionCommand) -> StoredVersion:
        """Put a new version in force at once for every later atomic call, with its marks. Anchored like a
        mark.
        """
        ...

    async def pin(self, pin: KeyPin) -> None:
        """Bind a bearer document to the first key that is shown with it, durably and for as long as it lives.

        The same pair again changes nothing. Another key MUST raise Refused(`replay`, rule="second_key").
        With it `proofs` are used up, each once. What ends before the store's time MUST raise Unavailable,
        rule="clock": it may have been purged.
        """
        ...

    async def record(self, happening: Happening) -> None:
        """Append one entry durably. Shed first: raises Unavailable when the queue is long."""
        ...

    async def step(self, step: str) -> StepRecord | None:
        """A committed step, or None."""
        ...

    async def past(self, txn: str) -> Past:
        """All steps of the transaction, in the order of their opening, for as long as it may get another.

        MUST have every step whose `open` returned before this was called: a request that came in before
        a step was opened cannot have come of it. Raises Unavailable(rule="store") when some are missing.
        """
        ...

    async def knows(self, txn: str) -> bool:
        """Whether this transaction is one of the store's."""
        ...

    async def grant(self, grant: str) -> GrantRecord | None:
        """A committed grant, or None."""
        ...

    async def version(self, kind: VersionKind, number: int | None = None) -> StoredVersion | None:
        """A version by number, or the one in force."""
        ...

    async def history(self, kind: VersionKind) -> Sequence[StoredVersion]:
        """All versions, oldest first."""
        ...

    def marks(self) -> Mapping[str, Mark]:
        """The standing marks by target; a live view."""
        ...

    def tats(self) -> Mapping[str, float]:
        """The rate counters by key; a live view, for `limits list` and `limits explain`."""
        ...

    async def reap(self, now: float) -> Reaped:
        """End what ran out (each with its entry), purge what no verb can ask for any more. MUST be
        idempotent.
        """
        ...

    async def backup(self, path: str) -> None:
        """A consistent copy while serving."""
        ...

    @property
    def epoch(self) -> str:
        """The generation of reservations, unredeemed grants and rate counters: random, new at each start."""
        ...


class PolicyEngine(Protocol):
    """Decides. MUST deny on any error, on an empty policy set and on an unknown obligation."""

    async def decide(self, question: Question) -> Verdict:
        """The verdict; raises Unavailable(rule="policy") when the engine itself is in doubt."""
        ...

    @property
    def version(self) -> int:
        """The version in force."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """A verified credential together with the presenter's verified key proof."""

    claims: CredentialClaims
    jkt: str
    proof_jti: str
    proof_until: float


class StepTokens(Protocol):
    """Signs and reads step tokens with this broker's short-lived keys."""

    def mint(self, token: StepToken, now: float) -> str:
        """A compact JWS. MUST NOT use a key before it is published, or one that retires before the token
        ends.
        """
        ...

    def read(self, unverified: str, now: float) -> StepToken:
        """The verified claims. Raises Unproven(`invalid_token` | `expired`)."""
        ...

    def initiated(self, proof: str, *, token: str, args: str, round_: int, jkt: str, now: float) -> ProofUse:
        """The initiator's proof over this token, arguments digest and round, by the key `jkt`; good once.

        Raises Unproven(`invalid_proof`).
        """
        ...


class Credentials(Protocol):
    """Signs and reads action tokens; a key set of its own."""

    def sign(self, plan: str, now: float) -> str:
        """A compact JWS over the stored plan (JSON), byte for byte."""
        ...

    def present(self, unverified: str, proof: str, *, method: str, url: str, now: float) -> Presented:
        """Credential and proof together: signature, type, life (no leeway), `ath`, `htm`, `htu`, key.

        Raises Unproven(`invalid_token` | `expired` | `invalid_proof`).
        """
        ...

    def read(self, unverified: str, now: float) -> CredentialClaims:
        """The verified claims alone: for reports of what a guard refused. Raises
        Unproven(`invalid_token`).
        """
        ...


class KindPort(Protocol):
    """A credential kind: at what it mints from a stored plan, and how that ends. MUST be deterministic in
    its claims.
    """

    @property
    def name(self) -> str:
        """Its name in grants, configuration and docs."""
        ...

    @property
    def use(self) -> str:
        """`once` (redeemed) or `until closed`."""
        ...

    def mint(self, grant: Grant, now: float) -> str:
        """Stage 6: the credential of the stored plan; a repeat mints the same claims again."""
        ...

    def check(self, grant: Grant, made: str, now: float) -> None:
        """Stage 7: our own output against the plan. Raises Unavailable(`unavailable`) when they differ."""
        ...

    async def revoke(self, grant: Grant) -> None:
        """End it at its target. MUST be idempotent; a handle that is not there succeeds."""
        ...


class PersonProofs(Protocol):
    """Judges a person's proof (an OIDC ID token)."""

    async def judge(self, id_token: str, now: float) -> PersonProof:
        """The verified claims. Raises Refused(`human_proof`) with what is wrong, Unavailable when keys
        cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonProof:
    """A verified ID token. `clients`: its `aud` and `azp`. `digest` names it for single use; `until`: its
    `exp`; `may_act`: the one SPIFFE ID that it lets act, None when it says nothing; `acr`: how the person
    was authenticated; `key`: the public JWK of the issuer that signed it.
    """

    issuer: str
    subject: str
    clients: tuple[str, ...]
    auth_time: float
    nonce: str | None
    digest: str
    until: float
    may_act: str | None = None
    acr: str | None = None
    key: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """One coherent snapshot of what the operator set: a decision uses exactly one."""

    registry: Registry
    limits: Limits
    policy: PolicyEngine
    versions: Versions


class Settings(Protocol):
    """What is in force now."""

    def now_in_force(self) -> InForce:
        """The snapshot. Raises Unavailable when registry, limits or policy are missing."""
        ...


Proved = Literal["good", "none", "sealed", "erased", "unsalted", "changed"]
"""`good`: the document is the one whose salted digest the entry holds. `none`: the entry names none.

`sealed`: the entry's body is only in an export. `erased`: there is no document any more. `unsalted`: the salt
is erased, and nothing can be proved. `changed`: the document is not the entry's.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDecision:
    """An entry's decision document, only where it is proved to be the entry's own."""

    proved: Proved
    document: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEntry:
    """One committed entry of the ledger. `facts`: its body as JSON; None once only an export has it."""

    seq: int
    at: float
    kind: str
    txn: str | None
    ref: str | None
    tenant: str | None
    facts: Mapping[str, object] | None


class LedgerView(Protocol):
    """Reads what is committed. MUST NOT be able to write. `tenant` None is the operator of all tenants."""

    def by_ref(self, ref: str, tenant: str | None) -> Sequence[LoggedEntry]:
        """The entries under a ref; another tenant's ref looks like none."""
        ...

    def of_txn(self, txn: str) -> Sequence[LoggedEntry]:
        """A transaction's entries, oldest first."""
        ...

    def tail(self, after: int, limit: int, kinds: Sequence[str], tenant: str | None) -> Sequence[LoggedEntry]:
        """Entries with a number above `after`, oldest first; no kinds: all."""
        ...

    def decision(self, digest: str) -> Mapping[str, object] | None:
        """A decision document by its salted digest; None once erased."""
        ...

    def proved(self, entry: LoggedEntry) -> KeptDecision:
        """The entry's decision document, compared with the salted digest that the entry holds. MUST hand over
        no document that does not match.
        """
        ...

    def head(self) -> Mapping[str, object]:
        """Size, root (hex) and the newest checkpoint note."""
        ...

    def inclusion(self, seq: int) -> Mapping[str, object]:
        """The entry's inclusion proof (RFC 9162 section 2.1.3) under the smallest checkpoint that covers it,
        of those with a quorum of cosignatures if there is one.
        """
        ...

    def body(self, seq: int) -> bytes | None:
        """The entry's bytes, as the tree commits to them; None once they are in an export only."""
        ...
