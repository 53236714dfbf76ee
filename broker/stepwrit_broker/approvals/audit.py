"""The story of every approval in a log, checked step by step: was it asked, signed, given and used as told?

It needs no broker: entries of a log whose hashes were verified before, and the documents beside it where they
are kept. What is erased cannot be verified any more, and is told as that, never passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, cast

from stepwrit.digest import DigestError, args_digest
from stepwrit_broker.approvals import evidence as proofs
from stepwrit_broker.approvals.evidence import DoesNotHold
from stepwrit_broker.core.approval import Event, State, move
from stepwrit_broker.core.authenticator import fingerprint
from stepwrit_broker.core.entry import salted
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.ports import KeptDecision, LoggedEntry

Verdict = Literal["holds", "fails", "unknown"]  # unknown: it cannot be verified with what is here
Facts = Mapping[str, object]
_EVENTS: Final[dict[str, Event]] = {
    "approval.given": "give",
    "approval.used": "use",
    "approval.denied": "deny",
    "approval.cancelled": "cancel",
    "approval.expired": "expire",
}


class Documents(Protocol):
    """What lies beside the log."""

    def proved(self, entry: LoggedEntry) -> KeptDecision:
        """The entry's document, where its salted digest is the entry's."""
        ...

    def salt(self, txn: str) -> bytes | None:
        """A transaction's salt; None once erased, or not here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked. seq: of the entry it is about."""

    verdict: Verdict
    seq: int
    what: str


@dataclass(slots=True, kw_only=True)
class Audited:
    """One approval. state: as the entries lead to it. signed: how many signatures hold."""

    approval: str
    tool: str
    txn: str
    ref: str
    digest: str
    at: float
    state: State = "asked"
    signed: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])
    who: set[str] = field(default_factory=set[str])
    count: int | None = None  # distinct persons demanded; None while it is not known
    expires_at: float = float("inf")
    given_at: int | None = None  # the entry's number
    accepted_at: int | None = None  # of its step, the first time
    step: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst of its findings."""
        every = {each.verdict for each in self.findings}
        return "fails" if "fails" in every else "unknown" if "unknown" in every else "holds"

    def note(self, verdict: Verdict, seq: int, what: str) -> None:
        """One more finding."""
        self.findings.append(Finding(verdict=verdict, seq=seq, what=what))


@dataclass(slots=True, kw_only=True)
class _Key:
    """An authenticator, as the log tells of it. approved, retired: numbers of entries."""

    public_key: str
    person: str
    approved: int | None = None
    retired: int | None = None


class Audit:
    """Feed it the entries in their order; then `results`.

    issuer: the broker's URL, None to take it from the evidence. is_whole: the entries begin with the log, so
    that an authenticator which nobody proposed is a fault and not merely unknown.
    """

    def __init__(self, documents: Documents, *, issuer: str | None, is_whole: bool) -> None:
        self._documents, self._issuer, self._is_whole = documents, issuer, is_whole
        self._approvals: dict[str, Audited] = {}
        self._steps: dict[str, Audited] = {}
        self._keys: dict[str, _Key] = {}

    def run(self, entries: Iterable[LoggedEntry]) -> list[Audited]:
        """All of it, oldest first."""
        for each in entries:
            self.step(each)
        return self.results()

    def step(self, entry: LoggedEntry) -> None:
        """One entry; those of other kinds pass."""
        facts = entry.facts
        if facts is None:
            return
        if entry.kind.startswith("authenticator."):
            self._authenticator(entry, facts)
        elif entry.kind in ("step.accepted", "step.resumed"):
            self._accepted(entry, facts)
        elif entry.kind.startswith("approval."):
            self._approval(entry, facts)

    def results(self) -> list[Audited]:
        """Every approval that was asked for here."""
        for each in self._approvals.values():
            if each.accepted_at is not None and each.state != "used":
                each.note("fails", each.accepted_at, f"its step ran, and the approval is still {each.state}")
        return list(self._approvals.values())

    # --- authenticators

    def _authenticator(self, entry: LoggedEntry, facts: Facts) -> None:
        name, public_key = str(facts.get("authenticator")), str(facts.get("public_key"))
        match entry.kind:
            case "authenticator.proposed":
                if facts.get("fingerprint") == fingerprint(public_key):
                    self._keys[name] = _Key(public_key=public_key, person=str(facts.get("person")))
            case "authenticator.approved" if name in self._keys:
                self._keys[name].approved = entry.seq
            case "authenticator.retired" if name in self._keys:
                self._keys[name].retired = entry.seq
            case _:
                pass

    # --- approvals

    def _approval(self, entry: LoggedEntry, facts: Facts) -> None:
        name = str(facts.get("approval"))
        if entry.kind == "approval.asked":
            self._asked(entry, facts, name)
            return
        told = self._approvals.get(name)
        if told is None:
            return  # its asking is in another range
        if facts.get("digest") not in (None, told.digest):
            told.note("fails", entry.seq, f"{entry.kind}: of another digest than was asked for")
        if entry.kind == "approval.signed":
            self._signed(entry, facts, told)
        elif entry.kind in _EVENTS:
            self._moved(entry, told)

    def _asked(self, entry: LoggedEntry, facts: Facts, name: str) -> None:
        told = Audited(
            approval=name,
            tool=str(facts.get("tool")),
            txn=entry.txn or "",
            ref=entry.ref or "",
            digest=str(facts.get("digest")),
            at=entry.at,
            step=str(facts.get("step")),
        )
        if name in self._approvals:
            self._approvals[name].note("fails", entry.seq, "asked for twice")
            return
        self._approvals[name] = self._steps[told.step] = told
        self._document(entry, told)

    def _document(self, entry: LoggedEntry, told: Audited) -> None:
        """What was to be signed: its document, the digest of it, and that it is about this step."""
        kept = self._documents.proved(entry)
        signed = (kept.document or {}).get("signed")
        if kept.proved == "changed":
            told.note("fails", entry.seq, "the document beside the log is not the one that was asked for")
        elif not isinstance(signed, Mapping):
            told.note(
                "unknown", entry.seq, f"what was asked is known by its digest only ({_GONE[kept.proved]})"
            )
        else:
            self._compare(entry, told, cast("Facts", signed))

    def _compare(self, entry: LoggedEntry, told: Audited, signed: Facts) -> None:
        try:
            digest = args_digest(dict(signed))
        except DigestError:
            digest = ""
        about = (signed.get("id"), signed.get("step"), signed.get("txn"), signed.get("tool"))
        if digest != told.digest:
            told.note("fails", entry.seq, "the digest is not that of the document")
        elif about != (told.approval, told.step, told.txn, told.tool):
            told.note("fails", entry.seq, "the document is about another step")
        else:
            told.note("holds", entry.seq, "the digest is that of the document, which names this step")
        told.count, told.expires_at = _demanded(signed)

    def _moved(self, entry: LoggedEntry, told: Audited) -> None:
        try:
            told.state = move(told.state, _EVENTS[entry.kind])
        except Problem:
            told.note("fails", entry.seq, f"{entry.kind}, though it was {told.state}")
            return
        if entry.kind == "approval.given":
            told.given_at = entry.seq
            self._enough(entry, told)

    def _enough(self, entry: LoggedEntry, told: Audited) -> None:
        if told.count is None:
            return
        if len(told.who) < told.count:
            told.note("fails", entry.seq, f"given with {len(told.who)} of {told.count} signatures that hold")
        else:
            told.note("holds", entry.seq, f"{len(told.who)} signed, {told.count} demanded")

    def _accepted(self, entry: LoggedEntry, facts: Facts) -> None:
        told = self._steps.get(str(facts.get("step")))
        if told is None:
            return
        told.accepted_at = entry.seq if told.accepted_at is None else told.accepted_at
        if told.given_at is None:
            told.note("fails", entry.seq, "its step was accepted before the approval was given")

    # --- one signature

    def _signed(self, entry: LoggedEntry, facts: Facts, told: Audited) -> None:
        method, name = str(facts.get("method")), facts.get("authenticator")
        if told.state != "asked" or entry.at > told.expires_at:
            told.note("fails", entry.seq, "signed after it was over")
            return
        shown = facts.get("evidence")
        try:
            self._check(
                entry, told, method, str(name), cast("Facts", shown) if isinstance(shown, Mapping) else {}
            )
            if name is not None:
                self._owner(entry, facts, told, str(name))
        except DoesNotHold as no:
            told.note("fails", entry.seq, f"signature by {method}: {no}")
            return
        told.signed += 1
        told.who.add(str(facts.get("who")))
        by = f" with {name}" if name else ""
        told.note("holds", entry.seq, f"signed by {method}{by}")

    def _check(self, entry: LoggedEntry, told: Audited, method: str, name: str, shown: Facts) -> None:
        match method:
            case "webauthn":
                proofs.check_webauthn(shown, told.digest, self._issuer)
            case "key":
                proofs.check_key(
                    shown, told.digest, approval=told.approval, authenticator=name, issuer=self._issuer
                )
            case "oidc":
                proofs.check_oidc(shown, told.digest)
                self._id_token(entry, told, shown)
            case _:
                raise DoesNotHold("a method that is not known here")

    def _id_token(self, entry: LoggedEntry, told: Audited, shown: Facts) -> None:
        kept = self._documents.proved(entry)
        token = (kept.document or {}).get("id_token")
        if kept.proved == "changed":
            raise DoesNotHold("the ID token beside the log is not the one of this entry")
        if not isinstance(token, str):
            what = f"that {shown.get('issuer')} signed it cannot be verified: the ID token is gone"
            told.note("unknown", entry.seq, f"{what} ({_GONE[kept.proved]})")
            return
        proofs.check_id_token(shown, token)

    def _owner(self, entry: LoggedEntry, facts: Facts, told: Audited, name: str) -> None:
        """The key is the one that an operator approved for this very person, and not retired by then."""
        key = self._keys.get(name)
        if key is None or key.approved is None:
            if self._is_whole:
                raise DoesNotHold(f"{name} was never approved by an operator")
            told.note("unknown", entry.seq, f"whose {name} is stands in an earlier part of the log")
            return
        shown = cast("Facts", facts.get("evidence"))
        if shown.get("public_key") != key.public_key:
            raise DoesNotHold(f"the key is not the one that was registered as {name}")
        if key.retired is not None:
            raise DoesNotHold(f"{name} was retired before")
        salt = self._documents.salt(told.txn)
        if salt is None:
            told.note("unknown", entry.seq, "that the key's owner is the person named: the salt is gone")
        elif salted(salt, key.person) != facts.get("who"):
            raise DoesNotHold("the person named is not the key's owner")


_GONE: Final[dict[str, str]] = {
    "erased": "erased, or not given along",
    "none": "none was kept",
    "sealed": "its entry is in an export",
    "unsalted": "its salt is erased",
    "good": "it holds no such member",
}


def _demanded(signed: Facts) -> tuple[int | None, float]:
    """How many persons at least, and until when."""
    terms, until = signed.get("terms"), signed.get("expires_at")
    counts = list(_counts(terms)) if isinstance(terms, list) else []
    return max(counts, default=None), float(until) if isinstance(until, int) else float("inf")


def _counts(terms: list[object]) -> Iterator[int]:
    for each in terms:
        count = cast("Facts", each).get("count") if isinstance(each, Mapping) else None
        if isinstance(count, int):
            yield count
