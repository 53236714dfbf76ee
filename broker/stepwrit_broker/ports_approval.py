"""The seam for approvals: their records, the people's authenticators, and what speaks with people.

As in `ports`: every changing call is ONE atomic, durable operation with its ledger entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stepwrit_broker.core.approval import ApprovalRecord, Method, Signed
from stepwrit_broker.core.authenticator import Authenticator, Verb
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.statement import Purpose
from stepwrit_broker.ports import Evidence, ProofUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One signature that an adapter verified, before it is known whether it counts.

    method: how. authenticator: its id, None for `oidc`. sign_count: a passkey's new counter. proofs: what is
    used up by it: the attempt's nonce, an ID token. evidence: what an auditor verifies offline with public
    keys alone (JSON; base64url where bytes): it goes into the ledger as it is and holds no secret. kept: what
    names the person, for the document beside the log, which can be erased.
    """

    by: Identity
    method: Method
    digest: str
    authenticator: str | None
    sign_count: int | None = None
    proofs: tuple[ProofUse, ...] = ()
    evidence: Mapping[str, object] = field(default_factory=dict, repr=False)
    kept: Mapping[str, object] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignCommand:
    """Add one signature. persons: the operator's list in force, by which it is counted.

    subjects: whatever, if marked, stops this signer.
    """

    approval: str
    signed: Signed
    given: Given
    who: str  # the signer's opaque id, for the ledger
    persons: Persons
    ref: str
    now: float
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseCommand:
    """End an approval that waits: a person denies it, or its asker or an operator cancels it.

    by: an opaque id of a person, a SPIFFE ID or an operator's name. reason: a sentence, may be empty.
    """

    approval: str
    verb: Literal["deny", "cancel"]
    by: str
    reason: str
    ref: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeCommand:
    """A key that somebody sent in for a person. proofs: the invitation, used once."""

    authenticator: Authenticator
    who: str
    proofs: tuple[ProofUse, ...]
    evidence: Evidence
    ref: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecideCommand:
    """An operator's word on an authenticator. who: the owner's opaque id."""

    authenticator: str
    verb: Verb
    by: str
    reason: str
    who: str
    ref: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Which approvals to list; None: any. `state`: of the approval."""

    tenant: str | None = None
    state: str | None = None
    requester: str | None = None
    txn: str | None = None
    tool: str | None = None
    initiator: str | None = None
    most: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentCommand:
    """A person signs in. authenticator: with which passkey, None for none of ours. proofs: used up by it."""

    by: Identity
    authenticator: str | None
    sign_count: int | None
    proofs: tuple[ProofUse, ...]
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many approvals wait, and since when the oldest does: seconds since the epoch, None for none."""

    waiting: int
    since: float | None


class ApprovalStore(Protocol):
    """Approvals and authenticators. Approvals are asked for in `Store.open`, used in `Store.accept`.

    MUSTs: an identity signs once, unless what it signed with was retired since; the last signature that is
    missing moves the approval to `given` and its step to `opened` in the same write; whatever ends the step
    ends the approval; a `Given`'s proofs are used up once (Refused `replay`); a passkey's counter is compared
    and stored in the same write.
    """

    async def approval(self, approval: str) -> ApprovalRecord | None:
        """By its id."""
        ...

    async def approval_of(self, step: str) -> ApprovalRecord | None:
        """By its step."""
        ...

    async def approvals(self, sought: Sought) -> Sequence[ApprovalRecord]:
        """Newest first."""
        ...

    async def backlog(self) -> Backlog:
        """Of all tenants."""
        ...

    async def sealed_text(self, approval: str) -> bytes | None:
        """What `Ask.sealed` was, while the approval waits; None afterwards: it is erased at its end."""
        ...

    async def sign(self, command: SignCommand) -> ApprovalRecord:
        """Raises Refused(`access_denied`, `expired_token`, `replay`), Conflict(`wrong_state`)."""
        ...

    async def refuse(self, command: RefuseCommand) -> ApprovalRecord:
        """Its step ends as cancelled. Ended approvals: Conflict(`wrong_state`). Never shed."""
        ...

    async def propose(self, command: ProposeCommand) -> Authenticator:
        """A new authenticator, `proposed`. Raises Conflict when the key or credential is known."""
        ...

    async def decide(self, command: DecideCommand) -> Authenticator:
        """Approve or retire. Raises Refused(`not_found`), Conflict(`wrong_state`)."""
        ...

    async def present(self, command: PresentCommand) -> None:
        """Use up the proofs and compare and store the passkey's counter, which must be active and theirs.

        Raises Refused(`access_denied`, `replay`).
        """
        ...

    async def authenticator(self, name: str) -> Authenticator | None:
        """By its id, or a passkey's credential id. A key's id is `aut_` and its thumbprint (RFC 7638)."""
        ...

    async def authenticators(self, owner: Identity | None) -> Sequence[Authenticator]:
        """All of one person, or of everybody; oldest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """What a passkey signed, verified. handle: the user handle that it was made with, if it told it.

    evidence: `client_data`, `authenticator_data`, `signature` (base64url) and `public_key` (a JWK's text).
    """

    credential: str
    sign_count: int
    handle: bytes | None = field(repr=False)
    evidence: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPasskey:
    """A passkey just made. credential: base64url. public_key: the JWK's text by which it is kept."""

    credential: str
    public_key: str
    sign_count: int


class Passkeys(Protocol):
    """Web Authentication for one RP. MUST demand user verification, our own origin and RP ID, and a window
    of its own; MUST NOT compare counters: the store does.
    """

    def request(self, challenge: bytes, allowed: Iterable[str]) -> Mapping[str, object]:
        """What a browser is asked to have signed (JSON). No `allowed` credential: any passkey of this RP."""
        ...

    def creation(
        self, challenge: bytes, *, handle: bytes, name: str, known: Iterable[str]
    ) -> Mapping[str, object]:
        """What a browser is asked to make (JSON): a discoverable passkey, none where it has a `known` one."""
        ...

    def credential(self, said: str) -> str:
        """The credential id, base64url, that a browser's answer names. Raises Unproven(`invalid_proof`)."""
        ...

    def asserted(self, said: str, challenge: bytes, public_key: str) -> Assertion:
        """A browser's answer, verified. Raises Unproven(`invalid_proof`)."""
        ...

    def registered(self, said: str, challenge: bytes) -> NewPasskey:
        """A browser's new passkey, verified. Raises Unproven(`invalid_proof`)."""
        ...


class Keys(Protocol):
    """Approvers' public keys and their signatures."""

    def read(self, text: str) -> str:
        """A public key as its JWK (RFC 7517): required members alone, canonical. Raises Malformed."""
        ...

    def check(self, public_key: str, purpose: Purpose, said: bytes, signature: bytes) -> None:
        """Pass if the JWK's key signed this statement. Raises Unproven(`invalid_proof`)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """One visit of a person to their identity provider. verifier: of PKCE (RFC 7636). nonce: what the ID
    token must hold. max_age_s: how long ago they may have signed in. step_up: anew, and as strongly as the
    operator demands (RFC 9470).
    """

    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    max_age_s: int
    step_up: bool


class SignIns(Protocol):
    """The broker as a client of one OpenID provider.

    issuer: its `iss`. client_id: ours, and nobody else's. acr: which of its authentications may sign; empty:
    none may. label: what persons call it.
    """

    @property
    def issuer(self) -> str: ...  # noqa: D102
    @property
    def client_id(self) -> str: ...  # noqa: D102
    @property
    def acr(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102

    async def address(self, leaving: Leaving) -> str:
        """Where the person's browser is to go. Raises Unavailable."""
        ...

    async def redeem(self, answer: Mapping[str, str], leaving: Leaving) -> str:
        """The ID token, not judged yet, for the parameters with which the browser came back.

        MUST demand PKCE and the provider's own `iss` where it says that it sends one (RFC 9207). Raises
        Unproven(`invalid_proof`), Refused(`access_denied`) where the provider said no, Unavailable.
        """
        ...


class Sealer(Protocol):
    """Keeps text unreadable in the store's file, its backups and copies."""

    def seal(self, text: bytes, context: str) -> bytes:
        """Authenticated encryption; `context` must be the same at `open`."""
        ...

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raises Unavailable(rule="store") for what was not sealed by us for this context."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something to tell people or systems of: names and a link, never a secret, never an argument.

    event: `asked`, `reminded`, `signed`, `given`, `denied`, `cancelled`, `expired`. to: the names of those
    persons of the operator's list whose signature would count and is not there. url: the approval's page.
    """

    event: str
    approval: str
    tenant: str
    txn: str
    step: str
    tool: str
    impact: str
    initiator: str
    requester: Identity | None
    to: tuple[str, ...]
    url: str
    asked_at: float
    expires_at: float
    ref: str


class Notices(Protocol):
    """Tells approvers. Best effort by nature: MUST NOT raise or hold the caller up, MUST count failures."""

    def tell(self, notice: Notice) -> None:
        """Queue it."""
        ...


class Bell(Protocol):
    """Wakes those who wait for one approval, in this process."""

    def ring(self, approval: str) -> None:
        """It moved."""
        ...

    async def wait(self, approval: str, seconds: float) -> None:
        """Until it is rung, or the time is over."""
        ...
