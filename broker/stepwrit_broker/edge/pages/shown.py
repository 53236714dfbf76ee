"""What is told on a page, in words. The text that is signed is shown as it is; what stands beside it is made
here, from the same records, and goes through `plain` wherever it came from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Final, Literal

from stepwrit_broker.core import marks
from stepwrit_broker.core.approval import ApprovalRecord, Asked, Signed
from stepwrit_broker.core.marks import Mark
from stepwrit_broker.core.persons import Identity, Persons
from stepwrit_broker.core.plain import plain
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.flows.approving import View

Tone = Literal["good", "bad", "warn", "quiet"]
STARTED: Final = {
    "human": "A person asked for it",
    "model": "A model chose it",
    "server": "A server started it by itself",
}
METHODS: Final = {"webauthn": "passkey", "oidc": "signing in again", "key": "key"}
ARGUMENT: Final = "Argument "


@dataclass(frozen=True, slots=True)
class Moment:
    """A time: ISO 8601, in words, and how long it is still to come (seconds)."""

    iso: str
    words: str
    left: int

    @property
    def left_words(self) -> str:
        """`12 minutes`; nothing is rounded up."""
        return _left(self.left)


def moment(at: float, now: float) -> Moment:
    """Of seconds since the epoch."""
    when = datetime.fromtimestamp(at, UTC)
    return Moment(f"{when:%Y-%m-%dT%H:%M:%SZ}", f"{when:%Y-%m-%d %H:%M} UTC", max(0, int(at - now)))


def _left(seconds: int) -> str:
    for unit, size in (("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it stands: a headline, a sentence, and how it looks."""

    tone: Tone
    head: str
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One approval as a page shows it. blocks: the signed lines in order; those of arguments together.

    text, digest: of the lines, and of all that is signed. title: the tool. path: who started what until here.
    signed: who, when, how. terms: who may sign. is_open: it waits, and can be denied. can_sign: by this
    person, now. braked: by a mark, if one stands.
    """

    id: str
    txn: str
    ref: str
    state: str
    title: str
    impact: str
    origin: str
    started: str
    purpose: str
    initiator: str
    expires: Moment
    headline: str
    blocks: Sequence[tuple[bool, Sequence[str]]] = field(repr=False)
    text: str
    digest: str
    path: Sequence[tuple[str, str, str]]
    signed: Sequence[tuple[str, Moment, str]]
    terms: Sequence[str]
    missing: int
    has_signed: bool
    is_open: bool
    can_sign: bool
    outcome: Outcome | None
    braked: Outcome | None


def shown(view: View, persons: Persons, who: Identity, standing: Mapping[str, Mark], now: float) -> Shown:
    """All of a page."""
    record, asked = view.record, view.record.asked
    state = "expired" if record.state == "asked" and now >= asked.expires_at else record.state
    braked = brake(asked, standing)
    lines = view.text or ()
    return Shown(
        id=asked.id,
        txn=asked.step.txn,
        ref=asked.step.ref,
        state=state,
        title=plain(asked.action.tool),
        impact=asked.action.impact,
        origin=asked.step.origin,
        started=STARTED[asked.step.origin],
        purpose=plain(asked.step.intent.purpose),
        initiator=plain(str(asked.step.initiator)),
        expires=moment(asked.expires_at, now),
        headline=lines[0] if lines else f"{plain(asked.action.tool)}, {asked.action.impact} impact",
        blocks=[(is_args, list(group)) for is_args, group in groupby(lines[1:], _is_argument)],
        text=asked.text,
        digest=asked.digest,
        path=[
            (STARTED[hop.origin], plain(hop.tool or "the intent"), plain(str(hop.initiator)))
            for hop in asked.step.chain
        ],
        signed=[
            (_name(each.by, asked, persons, who), moment(each.at, now), _how(each)) for each in record.signed
        ],
        terms=[_terms(each) for each in asked.terms],
        missing=view.missing,
        has_signed=view.has_signed,
        is_open=state == "asked",
        can_sign=state == "asked" and braked is None and not view.has_signed,
        outcome=_outcome(record, state, view),
        braked=braked,
    )


def _is_argument(line: str) -> bool:
    return line.startswith(ARGUMENT)


def brake(asked: Asked, standing: Mapping[str, Mark]) -> Outcome | None:
    """What stops it now, if anything does."""
    mark = marks.standing(standing, marks.subjects_of_step(asked.step))
    if mark is None:
        return None
    if mark.verb == "revoke":
        return Outcome(tone="bad", head="Revoked", says="It will not run; there is nothing left to sign.")
    return Outcome(
        tone="warn",
        head="Frozen",
        says="Nothing of this goes on, and nobody can sign, until an operator lifts the freeze.",
    )


def _outcome(record: ApprovalRecord, state: str, view: View) -> Outcome | None:
    if state == "asked":
        return _more(view) if view.has_signed else None
    tone, head, says = _ENDED[state]
    reason = f" Reason: {plain(record.reason)}" if record.by and record.reason else ""
    return Outcome(tone=tone, head=head, says=f"{says}{reason}")


def _more(view: View) -> Outcome:
    more = "1 more signature is" if view.missing == 1 else f"{view.missing} more signatures are"
    return Outcome(tone="good", head="You have signed", says=f"{more} needed before it runs.")


_ENDED: Final[dict[str, tuple[Tone, str, str]]] = {
    "given": ("good", "Approved", "All signatures are there. It may run once, exactly as shown."),
    "used": ("good", "Approved and used", "It ran once. This approval is good for nothing more."),
    "denied": ("bad", "Denied", "The step has ended and will not run."),
    "cancelled": ("quiet", "Cancelled", "The step has ended and will not run."),
    "expired": ("quiet", "Expired", "Nobody signed in time. The step will not run."),
}


def _name(by: Identity, asked: Asked, persons: Persons, who: Identity) -> str:
    """Persons by the operator's name for them; others without one."""
    if persons.is_same(by, who):
        return "you"
    wants = asked.step.intent.requester
    if wants is not None and persons.is_same(by, Identity(wants.issuer, wants.subject)):
        return "the requester"
    name = persons.name(by)
    return "another person" if name is None else plain(name)


def _how(signed: Signed) -> str:
    retired = " (retired since: it counts no more)" if signed.withdrawn else ""
    return f"{METHODS[signed.method]}{retired}"


def _terms(terms: Terms) -> str:
    """`2 signatures, of the requester (not alone), bob, carol`."""
    own = [] if not terms.requester else ["the requester" if terms.alone else "the requester (not alone)"]
    names = ", ".join([*own, *(plain(each) for each in sorted(terms.persons))])
    return f"{terms.count} signature{'s' if terms.count > 1 else ''}, of {names}"
