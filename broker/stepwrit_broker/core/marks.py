"""Marks: one durable "no" each. What opens, reserves or redeems tests them in its own atomic call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

from stepwrit_broker.core.caller import Caller
from stepwrit_broker.core.errors import Malformed, Refused
from stepwrit_broker.core.grant import Grant
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.step import Step
from stepwrit_broker.core.workload import SpiffeId, parse_spiffe_id, parse_trust_domain

Verb = Literal["revoke", "freeze"]
TARGETS = (
    "step", "txn", "grant", "workload", "tool", "server", "resource", "requester", "key", "tenant", "issuer",
    "trust_domain", "everything",
)  # fmt: skip
TARGET_MAX = 2100


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """`target` is `kind:name`. A freeze can be lifted; a revocation cannot."""

    target: str
    verb: Verb
    reason: str
    by: str
    at: float
    ref: str


def parse_target(unverified: str) -> str:
    """`kind:name` of a known kind, with a name that can stop something. Raises Malformed."""
    kind, _, name = unverified.partition(":")
    if kind not in TARGETS or not name or len(unverified) > TARGET_MAX:
        raise Malformed("invalid_request", f"target must be KIND:NAME, with KIND one of {', '.join(TARGETS)}")
    try:
        fits = _FITS.get(kind, bool)(name)
    except ValueError:
        fits = False
    if not fits:
        raise Malformed("invalid_request", f"target: no name of a {kind}; a mark on it would stop nothing")
    return unverified


def _is_workload(name: str) -> bool:
    """A SPIFFE ID, or one with `/*` after it for all below; also for a whole trust domain."""
    path = name.removesuffix("/*")
    if path != name and path.count("/") == 2:
        return path.startswith("spiffe://") and bool(parse_trust_domain(path.removeprefix("spiffe://")))
    return bool(parse_spiffe_id(path))


# A mark that names nothing stops nothing, and whoever pulled the brake would not know.
_FITS: dict[str, Callable[[str], object]] = {
    "step": partial(is_id, "stp"),
    "txn": partial(is_id, "txn"),
    "grant": partial(is_id, "grt"),
    "workload": _is_workload,
    "trust_domain": parse_trust_domain,
    "everything": "all".__eq__,
}


@lru_cache(maxsize=8192)  # every request asks for the same few workloads
def _names_of(workload: str) -> tuple[str, ...]:
    """A workload's ID, or the pattern of its entry, every pattern that covers it, and its trust domain."""
    domain, *path = workload.removeprefix("spiffe://").removesuffix("/*").split("/")
    above = ["/".join((domain, *path[:depth])) for depth in range(len(path))]
    return (
        f"workload:{workload}",
        *(f"workload:spiffe://{each}/*" for each in above),
        f"trust_domain:{domain}",
    )


def subjects_of_workload(workload: SpiffeId) -> tuple[str, ...]:
    """The targets that stop a workload."""
    return (*_names_of(workload), "everything:all")


def subjects_of_caller(caller: Caller) -> tuple[str, ...]:
    """The targets that stop a caller: its ID, every pattern that covers it, its domain, the key that it
    proved, and its proxy's.
    """
    own = (*subjects_of_workload(caller.workload.id), f"workload:{caller.entry.id}")
    key = () if caller.jkt is None else (f"key:{caller.jkt}",)
    return (*own, *key, *subjects_of_proxy(caller))


def subjects_of_proxy(caller: Caller) -> tuple[str, ...]:
    """The targets that stop the proxy by whose word the caller is here; none for one that came directly."""
    via = caller.workload.via
    return () if via is None else _names_of(via)


def subjects_of_grant(grant: Grant) -> tuple[str, ...]:
    """The targets that stop a credential beyond those that stop its step."""
    return (
        f"grant:{grant.id}",
        f"workload:{grant.performer}",
        f"key:{grant.jkt}",
        f"resource:{grant.audience}",
    )


def subjects_of_step(step: Step) -> tuple[str, ...]:
    """The targets that stop a step: itself, all above, everyone, every tool and opener's key in its chain,
    and what stops its transaction from outside.
    """
    names = {f"txn:{step.txn}", f"step:{step.id}", f"tenant:{step.tenant}", "everything:all"}
    names.update(step.intent.outside)
    names.update(f"key:{key}" for key in (step.initiator_jkt, *step.keys_above))
    names.update(f"step:{ancestor}" for ancestor in step.ancestors)
    for workload in {step.initiator, step.performer, *_workloads(step)}:
        names.update(_names_of(workload))
    for tool in {hop.tool for hop in step.chain if hop.tool is not None}:
        names.update((f"tool:{tool}", f"server:{tool.partition('/')[0]}"))
    if step.intent.requester is not None:
        names.add(f"requester:{step.intent.requester.opaque}")
    if step.action is not None:
        names.update((f"tool:{step.action.tool}", f"server:{step.action.server}"))
    return tuple(names)


def _workloads(step: Step) -> Iterator[str]:
    for hop in step.chain:
        yield hop.initiator
        yield hop.performer


def standing(marks: Mapping[str, Mark], subjects: Iterable[str]) -> Mark | None:
    """The first mark that stands against any of the subjects."""
    if not marks:
        return None
    return next((marks[subject] for subject in subjects if subject in marks), None)


def test(marks: Mapping[str, Mark], subjects: Iterable[str]) -> None:
    """Raises Refused (`revoked` or `frozen`) when a mark stands."""
    mark = standing(marks, subjects)
    if mark is None:
        return
    kind = mark.target.partition(":")[0]
    what = kind if kind == "everything" else f"the {kind}"
    code = "revoked" if mark.verb == "revoke" else "frozen"
    who = None if mark.verb == "revoke" else f"{mark.by} (stepwrit unfreeze)"
    raise Refused(code, f"{what} is {code}", rule=f"mark {mark.ref}", who_can_change_it=who)
