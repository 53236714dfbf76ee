"""The API's story of a transaction, arranged for telling: who performed, what ended when, and how. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Json = Mapping[str, Any]
_INDEX: Final = frozenset({"seq", "at", "kind", "ref"})
_SCHEME: Final = "spiffe://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a credential came to its end. at: seconds since the epoch. by: who redeemed it."""

    state: str
    at: float | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the events add to the tree of steps.

    began: the first event, seconds since the epoch. home: the trust domain that most IDs are in. performers:
    who accepted, by step. ended: when, by step. issued and endings: by grant. issues: the decision of an
    issue, by grant. own: grants of tools that are their own resource. asked: the
    name that was asked about.
    """

    began: float
    home: str
    performers: Mapping[str, str]
    ended: Mapping[str, float]
    issued: Mapping[str, float]
    endings: Mapping[str, Ending]
    issues: Mapping[str, str]
    own: frozenset[str]
    asked: str

    def short(self, spiffe_id: object) -> str:
        """An ID of the home domain by its path, any other in full."""
        text = str(spiffe_id or "-")
        return text.removeprefix(f"{_SCHEME}{self.home}/")

    def ref(self, ref: object) -> str:
        """A ref as it is shown, with a sign where it is the one that was asked about."""
        return f"ref {ref}{' ◀ this' if ref == self.asked else ''}"

    def after(self, at: object) -> str:
        """How long after the beginning, such as `+0.204 s`."""
        return f"+{at - self.began:.3f} s" if isinstance(at, int | float) else ""


def is_sealed(event: Json) -> bool:
    """Whether only the index of an entry is here, and its body in an export."""
    return event.keys() <= _INDEX


def told(story: Json) -> Told:
    """Read a story's events."""
    events: list[Json] = list(story.get("events") or ())
    return Told(
        asked=str(story.get("name") or ""),
        began=min((event["at"] for event in events), default=0.0),
        home=_home(events),
        performers={
            event["step"]: event["performer"]
            for event in events
            if _is(event, "step.accepted", "performer") or _is(event, "step.resumed", "performer")
        },
        ended={
            event["step"]: event["at"]
            for event in events
            if event["kind"] in ("step.closed", "step.expired") and "step" in event
        },
        issued={
            event["grant"]: event["at"]
            for event in events
            if event["kind"] in ("grant.issued", "grant.self") and "grant" in event
        },
        own=frozenset(event["grant"] for event in events if _is(event, "grant.self", "grant")),
        endings=dict(_endings(events)),
        issues={
            event["grant"]: event["decision"] for event in events if _is(event, "grant.issued", "decision")
        },
    )


def _is(event: Json, kind: str, needs: str) -> bool:
    return event["kind"] == kind and needs in event


def _endings(events: list[Json]) -> Iterator[tuple[str, Ending]]:
    """Later ones win: a redeemed credential may still be revoked with its step."""
    for event in events:
        if "grant" not in event and "grants" not in event:
            continue  # of something else, or its body is in an export
        match event["kind"]:
            case "grant.redeemed":
                yield event["grant"], Ending(state="redeemed", at=event["at"], by=event.get("redeemer"))
            case "grant.self":
                yield event["grant"], Ending(state="redeemed", at=event["at"], by=event.get("performer"))
            case "grant.expired":
                state = "revoked" if event.get("reason") == "revoked" else "expired"
                yield event["grant"], Ending(state=state, at=event["at"])
            case "step.closed" | "step.expired":
                for grant in event.get("grants") or ():
                    yield grant, Ending(state=_with_step(event), at=event["at"])
            case _:
                pass


def _with_step(event: Json) -> str:
    outcome = event.get("outcome")
    return str(outcome) if outcome in ("revoked", "expired") else "closed unused"


def _home(events: list[Json]) -> str:
    """The trust domain of most workloads in the story."""
    ids = [str(event.get(name)) for event in events for name in ("initiator", "performer", "caller")]
    domains = Counter(
        each.removeprefix(_SCHEME).partition("/")[0] for each in ids if each.startswith(_SCHEME)
    )
    return domains.most_common(1)[0][0] if domains else ""
