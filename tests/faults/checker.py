"""Was anything spent twice, lost, forgotten or invented? A pure function over what a run left behind.

    findings = check(Run.read(lines))    # empty: nothing was

Nothing here asks the broker: its answers are compared with the target's own log of effects, with the ledger's
entries, whose tree is computed anew, and with the store's rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, get_args

from tests.faults import limiting, tree
from tests.faults.observed import Exchange, Run
from tests.faults.told import Check, Finding, Told

from stepwrit.wire import Code

ENDED = frozenset({"redeemed", "expired", "closed", "revoked"})
CODES = frozenset(get_args(Code))


def check(run: Run) -> list[Finding]:
    """Everything that is wrong with it."""
    told = Told(run)
    return [finding for part in (*CHECKS, *tree.CHECKS, *limiting.CHECKS) for finding in part(told)]


def go_aheads(told: Told) -> Iterator[Finding]:
    """One grant, one operation that was told yes; a repeat of that operation is the same yes."""
    ops: dict[str, set[str]] = defaultdict(set)
    for each in _ok(told.run, "redeem"):
        ops[each.grant].add(each.op)
    for grant, of in ops.items():
        if len(of) > 1:
            yield Finding("double_go_ahead", f"{grant}: {len(of)} operations were told yes")


def effects(told: Told) -> Iterator[Finding]:
    """One grant, one effect, and only by whom was told yes."""
    yes = {(each.grant, each.op) for each in _ok(told.run, "redeem")}
    for grant, count in Counter(each.grant for each in told.run.effects).items():
        if count > 1:
            yield Finding("double_effect", f"{grant}: {count} effects")
    for each in told.run.effects:
        if (each.grant, each.op) not in yes:
            yield Finding("effect_without_go_ahead", f"{each.grant}: by {each.place}, op {each.op}")
        if each.grant not in told.uses:
            yield Finding("unrecorded_effect", f"{each.grant}: at {each.place}, no entry")


def uses(told: Told) -> Iterator[Finding]:
    """The ledger has each use once, of what it has as issued, as often as the tool's plan says."""
    for grant, count in told.uses.items():
        if count > 1:
            yield Finding("double_entry", f"{grant}: {count} entries say spent")
        if grant not in told.issued:
            yield Finding("use_of_nothing", f"{grant}: spent, never issued")
    by_step = Counter(told.issued[grant]["step"] for grant in told.uses if grant in told.issued)
    for step, count in by_step.items():
        most = told.run.terms.times.get((told.steps.get(step) or {}).get("tool") or "", count)
        if count > most:
            yield Finding(
                "double_action", f"{step}: {count} of its credentials were spent, its plan has {most}"
            )


def rows(told: Told) -> Iterator[Finding]:
    """Rows and entries say the same of each grant."""
    for grant, state in told.run.state.grants.items():
        if state == "redeemed" and grant not in told.uses:
            yield Finding("unrecorded_use", f"{grant}: its row says spent, no entry does")
        if state in ("issued", "reserved", "expired", "closed") and grant in told.uses:
            yield Finding("forgotten_use", f"{grant}: an entry says spent, its row says {state}")
        if grant not in told.issued:
            yield Finding("unrecorded_grant", f"{grant}: a row, no entry")


_PROVES: dict[str, tuple[str, ...]] = {
    "intent": ("intent.opened",),
    "open": ("step.opened",),
    "accept": ("step.accepted", "step.resumed"),
    "credential": ("grant.issued",),
    "redeem": ("grant.redeemed",),
    "close": ("step.closed", "step.expired"),
    "revoke": ("mark.set",),
    "freeze": ("mark.set",),
    "unfreeze": ("mark.lifted",),
}


def confirmed(told: Told) -> Iterator[Finding]:
    """What a caller was told yes to has its entry."""
    have = {(said["kind"], _name(said)) for said in told.facts}
    for each in _ok(told.run, *_PROVES):
        name = _confirmed_name(each)
        if not any((kind, name) in have for kind in _PROVES[each.verb]):
            yield Finding("lost", f"{each.verb} {name} ref {each.ref}: confirmed by {each.via}, no entry")


def _confirmed_name(each: Exchange) -> str:
    if each.verb in ("revoke", "freeze", "unfreeze"):
        return each.target
    return each.grant if each.verb in ("credential", "redeem") else each.step


def _name(said: dict[str, Any]) -> str:
    if said["kind"].startswith("mark."):
        return str(said["target"])
    return str(said["grant"] if said["kind"].startswith("grant.") else said.get("step", ""))


def marks(told: Told) -> Iterator[Finding]:
    """A revocation that was acknowledged stands for good."""
    for each in _ok(told.run, "revoke"):
        if told.run.state.marks.get(each.target) != "revoke":
            yield Finding("lost_mark", f"{each.target}: acknowledged by {each.via}, no mark")


def answers(told: Told) -> Iterator[Finding]:
    """One operation, one answer, however often it is repeated."""
    named: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for each in _ok(told.run, "intent", "open", "credential", "redeem"):
        what = each.grant if each.verb in ("credential", "redeem") else each.step
        named[each.caller, each.verb, each.op].add(what)
    for (caller, verb, op), of in named.items():
        if len(of) > 1:
            yield Finding("two_answers", f"{verb} {op} of {caller}: {', '.join(sorted(of))}")


def intents(told: Told) -> Iterator[Finding]:
    """One ID token starts one intent."""
    begun: dict[str, set[str]] = defaultdict(set)
    for each in _ok(told.run, "intent"):
        if each.target:
            begun[each.target].add(each.step)
    for token, of in begun.items():
        if len(of) > 1:
            yield Finding("double_intent", f"{token}: {', '.join(sorted(of))}")


def refusals(told: Told) -> Iterator[Finding]:
    """Whatever is no yes is a refusal in the one shape, or the transport's error while there was cause."""
    run = told.run
    for each in run.exchanges:
        where = f"{each.verb} {each.op} at {each.via}"
        if each.result == "odd":
            yield Finding("untyped", f"{where}: {each.status} {each.said}")
        if each.result == "refused" and each.code not in CODES:
            yield Finding("untyped", f"{where}: code {each.code!r}")
        if each.result == "cut" and not _has_cause(run, each):
            yield Finding("cut_without_cause", f"{where}: {each.said} at {each.saw:.3f}")


def _has_cause(run: Run, each: Exchange) -> bool:
    grace = run.terms.grace_s
    return any(f.told and f.began <= each.saw and each.sent <= f.ended + grace for f in run.faults)


def endings(told: Told) -> Iterator[Finding]:
    """Every grant ends, in its row; one whose row is purged, by the entry of its own end or of its step's."""
    state, over = told.run.state, {said["grant"] for said in told.of("grant.expired")} | told.uses.keys()
    for grant, said in told.issued.items():
        stands = state.grants.get(grant)
        if stands is None and grant not in over and said["step"] not in told.ends:
            yield Finding("unended", f"{grant}: no row, and no entry of an end")
        if stands is not None and stands not in ENDED:
            yield Finding("unended", f"{grant}: {stands}")


_STOPPED = ("open", "accept", "credential", "redeem")


def after_revocation(told: Told) -> Iterator[Finding]:
    """Nothing begins after a mark that covers it was acknowledged and before it was lifted."""
    stops = _stops(told.run)
    for each in _ok(told.run, *_STOPPED):
        for target in _covered(told, each):
            if any(began < each.sent and each.saw < ended for began, ended in stops.get(target, ())):
                yield Finding(
                    "after_revocation", f"{each.verb} {each.grant or each.step}: {target} was marked"
                )


def _stops(run: Run) -> dict[str, list[tuple[float, float]]]:
    """From when to when each target was marked, as far as callers know for sure."""
    stops: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in _ok(run, "revoke", "freeze"):
        lifts = [e.sent for e in run.exchanges if (e.verb, e.target) == ("unfreeze", each.target)]
        later = [at for at in lifts if at > each.sent] if each.verb == "freeze" else []
        stops[each.target].append((each.saw, min(later, default=float("inf"))))
    return stops


def _covered(told: Told, each: Exchange) -> Iterator[str]:
    yield from each.covered
    if each.grant:
        yield f"grant:{each.grant}"
    for step in told.above(each.step):
        yield f"step:{step}"
    if each.txn:
        yield f"txn:{each.txn}"


def _ok(run: Run, *verbs: str) -> Iterator[Exchange]:
    return (each for each in run.exchanges if each.result == "ok" and each.verb in verbs)


CHECKS: tuple[Check, ...] = (
    go_aheads, effects, uses, rows, confirmed, marks, answers, intents, refusals, endings,
    after_revocation,
)  # fmt: skip
