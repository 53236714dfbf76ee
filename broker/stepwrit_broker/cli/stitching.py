"""Two stories of one chain, told by two brokers, joined by the digests of the grants that crossed. Pure.

What is checked: that both ledgers name the same grant, that the claims which each side kept are those of the
digest, and that they say of either side what its own ledger says. All else that a side tells of itself is its
word, and is told as such.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from stepwrit.digest import b64u
from stepwrit_broker.cli.output import NO, YES, harmless
from stepwrit_broker.cli.render import lineage_tree

Json = Mapping[str, Any]
_STEP: Final = "https://stepwrit.dev/step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """One grant in both stories. checks: what was compared; None where a side keeps nothing to compare."""

    digest: str
    step: str
    txn: str
    into: str
    checks: tuple[tuple[bool | None, str], ...]
    claims: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing that was compared differs."""
        return all(good is not False for good, _ in self.checks)


def joins(one: Json, other: Json) -> list[Join]:
    """Every grant that one of the stories gave and the other took."""
    return [*_joins(one, other), *_joins(other, one)]


def _joins(giver: Json, taker: Json) -> Iterator[Join]:
    upstream = (taker.get("root") or {}).get("upstream")
    if not isinstance(upstream, Mapping):
        return
    for event in giver.get("events") or ():
        export = event.get("export")
        if isinstance(export, Mapping) and export.get("digest") == upstream.get("digest"):
            yield _join(giver, taker, event, upstream)


def _join(giver: Json, taker: Json, event: Json, upstream: Json) -> Join:
    digest = str(upstream["digest"])
    nothing: Json = {}
    opened = next((each for each in taker["events"] if each["kind"] == "intent.opened"), nothing)
    here, there = _kept(giver, event), _kept(taker, opened)
    said = _read(here if here is not None else there)
    return Join(
        digest=digest,
        step=str(event.get("step")),
        txn=str(giver.get("txn")),
        into=str(taker.get("txn")),
        checks=tuple(_checks(giver, event, upstream, digest, here, there, said)),
        claims=tuple(_claims(giver, taker, event, said)),
    )


def _kept(story: Json, event: Json) -> str | None:
    """The grant's claims as this side keeps them beside its log; None once they are erased."""
    kept: Any = (story.get("decisions") or {}).get(event.get("decision"))
    text = kept.get("grant") if isinstance(kept, Mapping) else None
    return text if isinstance(text, str) else None


def _read(text: str | None) -> Json:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _checks(
    giver: Json,
    event: Json,
    upstream: Json,
    digest: str,
    here: str | None,
    there: str | None,
    said: Json,
) -> Iterator[tuple[bool | None, str]]:
    yield True, f"both ledgers hold the grant {digest}"
    for text, whose in ((here, "granted it"), (there, "took it")):
        name = f"the claims kept by the side that {whose}"
        if text is None:
            yield None, f"{name}: erased, nothing to compare"
        else:
            yield b64u(hashlib.sha256(text.encode()).digest()) == digest, f"{name} have this digest"
    if not said:
        return
    step: Any = said.get(_STEP) or {}
    yield said.get("iss") == upstream.get("issuer"), "its issuer is the peer that the taking side names"
    yield (
        said.get("aud") == event["export"].get("issuer"),
        "its audience is the peer that the other side names",
    )
    own = (step.get("id"), step.get("txn"))
    yield own == (event.get("step"), giver.get("txn")), "it is for the step in whose story it was given"


def _claims(giver: Json, taker: Json, event: Json, said: Json) -> Iterator[str]:
    """What each side says and the other cannot know."""
    claimed: Any = (said.get(_STEP) or {}).get("origin", event.get("origin"))
    root: Any = taker.get("root") or {}
    yield (
        f"the side that granted says that the step's origin is {claimed}; "
        f"the side that took it counts it as {root.get('origin')}, and does not have to believe more"
    )
    yield "who the requester is, and the chain above the grant, are the word of the side that granted"
    yield "what was done with it, and how it ended, are the word of the side that took it"
    home = _outcome(giver, str(event.get("step")))
    if home is not None:
        yield f"the step ended as {home} at home: the word of its initiator"


def _outcome(story: Json, step: str) -> str | None:
    ended = [e for e in story["events"] if e["kind"] == "step.closed" and e.get("step") == step]
    return str(ended[-1].get("outcome")) if ended else None


def stitched_view(one: Json, other: Json, found: list[Join]) -> RenderableType:
    """Both trees, and between them what joins them."""
    first, second = (one, other) if not found or found[0].txn == one.get("txn") else (other, one)
    parts: list[RenderableType] = [lineage_tree(first), Text()]
    for join in found:
        word = "joined by the grant" if join.holds else "DOES NOT MATCH: the grant"
        parts.append(Text(f"⇣ {word} {join.digest}", style="bold green" if join.holds else "bold red"))
        parts.append(Text(harmless(f"  step {join.step} of {join.txn} → {join.into}"), style="dim"))
        parts += [_check(good, what) for good, what in join.checks]
        parts += [Text(harmless(f"  · only said: {each}"), style="yellow") for each in join.claims]
    return Group(*parts, Text(), lineage_tree(second))


def _check(good: bool | None, what: str) -> Text:
    sign = "?" if good is None else YES if good else NO
    style = "yellow" if good is None else "green" if good else "bold red"
    return Text(harmless(f"  {sign} {what}"), style=style)


def as_json(one: Json, other: Json, found: list[Join]) -> dict[str, object]:
    """The same for machines."""
    told = [
        {
            "digest": join.digest,
            "holds": join.holds,
            "step": join.step,
            "txn": join.txn,
            "into": join.into,
            "checks": [{"good": good, "what": what} for good, what in join.checks],
            "claims": list(join.claims),
        }
        for join in found
    ]
    return {"joins": told, "story": dict(one), "other": dict(other)}
