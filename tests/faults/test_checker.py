"""The checker itself: a run that is right has no finding, and each planted violation exactly its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.faults import recorded
from tests.faults.checker import check
from tests.faults.observed import Exchange, FinalState, Run
from tests.faults.recorded import FACTS, T0, ask, clean, issued, opened, redeemed, retold


def test_nothing_is_wrong_with_a_run_that_is_right() -> None:
    assert check(clean()) == []


def test_a_run_is_read_as_it_was_written() -> None:
    run = replace(clean(), terms=replace(clean().terms, is_epoch_fresh=False, grace_s=0.0))
    assert Run.read(run.lines()) == run
    assert Run.read(reversed(run.lines())).exchanges == run.exchanges


def also(*exchanges: Exchange) -> Callable[[Run], Run]:
    return lambda run: replace(run, exchanges=(*run.exchanges, *exchanges))


def instead(verb: str, **changes: Any) -> Callable[[Run], Run]:
    """The last exchange of this verb is another."""

    def spoil(run: Run) -> Run:
        at = max(at for at, each in enumerate(run.exchanges) if each.verb == verb)
        kept = list(run.exchanges)
        kept[at] = replace(kept[at], **changes)
        return replace(run, exchanges=tuple(kept))

    return spoil


def rows(**changes: dict[str, str]) -> Callable[[Run], Run]:
    def spoil(run: Run) -> Run:
        merged = {name: {**getattr(run.state, name), **more} for name, more in changes.items()}
        return replace(run, state=replace(run.state, **merged))

    return spoil


def ledger(*more: dict[str, Any], without: str = "") -> Callable[[Run], Run]:
    """More entries, none of a kind."""
    return lambda run: retold(run, *(said for said in FACTS if said["kind"] != without), *more)


def both(*spoils: Callable[[Run], Run]) -> Callable[[Run], Run]:
    def spoil(run: Run) -> Run:
        for each in spoils:
            run = each(run)
        return run

    return spoil


def effect(**changes: Any) -> Callable[[Run], Run]:
    return lambda run: replace(run, effects=(*run.effects, replace(run.effects[0], **changes)))


def body_changed(run: Run) -> Run:
    entries = list(run.entries)
    entries[3] = replace(entries[3], body=entries[3].body.replace("R-stp_a", "R-stp_x"))
    return replace(run, entries=tuple(entries))


def hole(run: Run) -> Run:
    return replace(run, entries=run.entries[:2] + run.entries[3:], checkpoints=run.checkpoints[:1])


def cut_short(run: Run) -> Run:
    return replace(run, entries=run.entries[:-1])


def other_root(run: Run) -> Run:
    return replace(run, checkpoints=(*run.checkpoints, replace(run.checkpoints[2], root="00" * 32)))


def of_many(at: float, count: int, gap: float, **more: Any) -> tuple[dict[str, Any], ...]:
    """Credentials that end as they are issued: only the rate is in question."""
    return tuple(
        fact
        for n in range(count)
        for fact in (
            issued(f"grt_m{n}", "stp_a", at + n * gap, **more),
            {
                "kind": "grant.expired",
                "at": T0 + at + n * gap,
                "ref": "R",
                "grant": f"grt_m{n}",
                "step": "stp_a",
            },
        )
    )


def outstanding(at: float, count: int) -> tuple[dict[str, Any], ...]:
    """Credentials that are not used and run out, one by one, slowly enough for the rate."""
    live = tuple(issued(f"grt_m{n}", "stp_root", at + n) for n in range(count))
    return live + tuple(
        {"kind": "grant.expired", "at": T0 + at + 70, "ref": "R", "grant": f"grt_m{n}", "step": "stp_root"}
        for n in range(count)
    )


def steps(count: int, **more: Any) -> tuple[dict[str, Any], ...]:
    return tuple(opened(f"stp_m{n}", 10.0 + n, **more) for n in range(count))


TWICE = {"step": "stp_a", "grant": "grt_a", "op": "another"}
LATE = {"step": "stp_b", "grant": "grt_b", "result": "ok", "code": "", "status": 200}
PLANTED: dict[str, tuple[Callable[[Run], Run], set[str]]] = {
    "two operations of one grant were told yes": (also(ask("redeem", 1.55, **TWICE)), {"double_go_ahead"}),
    "one go-ahead was used for two effects": (effect(place="bank/2"), {"double_effect"}),
    "an effect of an operation that nobody was told yes to": (
        lambda run: replace(run, effects=(replace(run.effects[0], op="made-up"),)),
        {"effect_without_go_ahead"},
    ),
    "the ledger has a use twice": (ledger(redeemed("grt_a", "stp_a", 1.5)), {"double_entry"}),
    "two credentials of a step whose plan has one": (
        both(
            ledger(issued("grt_c", "stp_a", 9.0), redeemed("grt_c", "stp_a", 9.1)),
            rows(grants={"grt_c": "redeemed"}),
        ),
        {"double_action"},
    ),
    "a use of what was never issued": (ledger(redeemed("grt_x", "stp_a", 9.0)), {"use_of_nothing"}),
    "a row says spent, no entry does": (rows(grants={"grt_b": "redeemed"}), {"unrecorded_use"}),
    "a use whose row forgot it": (rows(grants={"grt_a": "expired"}), {"forgotten_use"}),
    "a row without an entry": (rows(grants={"grt_x": "expired"}), {"unrecorded_grant"}),
    "a confirmed step without an entry": (also(ask("open", 3.0, step="stp_x")), {"lost"}),
    "a confirmed acceptance without an entry": (ledger(without="step.accepted"), {"lost"}),
    "a confirmed end without an entry": (also(ask("close", 3.0, step="stp_root")), {"lost"}),
    "a confirmed intent without an entry": (also(ask("intent", 3.0, step="stp_y")), {"lost"}),
    "a confirmed credential without an entry": (
        also(ask("credential", 3.0, step="stp_a", grant="grt_x")), {"lost"},
    ),
    "a confirmed freeze without an entry": (also(ask("freeze", 9.0, target="tool:ledger/x")), {"lost"}),
    "a confirmed mark that does not stand": (
        lambda run: replace(run, state=replace(run.state, marks={})),
        {"lost_mark"},
    ),
    "one operation with two answers": (
        also(ask("credential", 1.35, step="stp_a", grant="grt_b", op="credential@1.3")),
        {"two_answers"},
    ),
    "one ID token with two intents": (
        both(
            ledger(opened("stp_root2", 3.0, None)),
            also(ask("intent", 1.05, step="stp_root", target="id_token:x", op="intent@1.0"),
                 ask("intent", 3.0, step="stp_root2", target="id_token:x")),
        ),
        {"double_intent"},
    ),
    "an answer that is no refusal": (
        also(ask("open", 3.0, result="odd", status=500, said="Internal Server Error")),
        {"untyped"},
    ),
    "a refusal of a code that nobody knows": (
        also(ask("open", 3.0, result="refused", code="nope")), {"untyped"},
    ),
    "a cut without a fault": (
        also(ask("open", 30.0, result="cut", said="ReadError")), {"cut_without_cause"},
    ),
    "a credential that never ends": (rows(grants={"grt_b": "issued"}), {"unended"}),
    "a credential without a row and an end": (ledger(issued("grt_x", "stp_root", 9.0)), {"unended"}),
    "a go-ahead after its step was revoked": (
        both(
            instead("redeem", **LATE),
            ledger(redeemed("grt_b", "stp_b", 2.6)),
        ),
        {"after_revocation"},
    ),
    "an entry whose body was changed": (body_changed, {"tree"}),
    "an entry that is missing": (hole, {"tree", "lost"}),
    "a log that was cut short": (cut_short, {"tree"}),
    "two roots of one size": (other_root, {"tree"}),
    "a burst beyond the limit": (ledger(*of_many(20.0, 6, 0.001)), {"over_rate"}),
    "a rate beyond the limit": (ledger(*of_many(20.0, 20, 0.05)), {"over_rate"}),
    "more outstanding than allowed": (ledger(*outstanding(20.0, 4)), {"over_outstanding"}),
    "more children than allowed": (ledger(*steps(3)), {"over_transaction"}),
    "more steps than allowed": (ledger(*steps(5, parent="stp_b")), {"over_transaction"}),
    "more of a server's steps than allowed": (
        ledger(*steps(3, parent="stp_b", origin="server")), {"over_transaction"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found_and_nothing_else(planted: str) -> None:
    spoil, kinds = PLANTED[planted]
    assert {finding.kind for finding in check(spoil(clean()))} == kinds


def test_an_effect_without_an_entry_is_found() -> None:
    run = ledger(without="grant.redeemed")(clean())
    assert {each.kind for each in check(run)} == {"unrecorded_effect", "unrecorded_use", "lost"}


RIGHT: dict[str, Callable[[Run], Run]] = {
    "a repeat of one operation": also(ask("redeem", 1.6, step="stp_a", grant="grt_a", op="redeem-a")),
    "a burst within the limit": ledger(*of_many(20.0, 5, 0.001)),
    "a rate within the limit": ledger(*of_many(20.0, 20, 0.1)),
    "a whole burst in each epoch": ledger(
        *of_many(20.0, 5, 0.001), {"kind": "broker.started", "at": T0 + 21, "ref": "R", "epoch": "e2"},
        *(said | {"grant": f"{said['grant']}x", "epoch": "e2"} for said in of_many(20.1, 5, 0.001)),
    ),
    "as many outstanding as allowed": ledger(*outstanding(20.0, 3)),
    "as many children as allowed": ledger(*steps(2)),
    "a purged row whose step has ended": lambda run: replace(
        run, state=FinalState(grants={}, marks=run.state.marks)
    ),
    "a go-ahead that was asked for before the revocation was acknowledged": both(
        instead("redeem", **LATE, sent=T0 + 2.31),
        ledger(redeemed("grt_b", "stp_b", 2.29)),
    ),
    "what begins again after a freeze was lifted": both(
        ledger({"kind": "mark.set", "at": T0 + 5, "ref": "R", "target": "step:stp_root", "verb": "freeze"},
               {"kind": "mark.lifted", "at": T0 + 6, "ref": "R", "target": "step:stp_root"},
               opened("stp_c", 7.0)),
        also(ask("freeze", 5.0, target="step:stp_root"), ask("unfreeze", 6.0, target="step:stp_root"),
             ask("open", 7.0, step="stp_c")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("right", RIGHT)
def test_what_is_allowed_is_no_finding(right: str) -> None:
    assert check(RIGHT[right](clean())) == []


def test_what_begins_under_a_freeze_is_found() -> None:
    frozen = RIGHT["what begins again after a freeze was lifted"](clean())
    early = replace(frozen.exchanges[-1], sent=T0 + 5.5, saw=T0 + 5.6)
    assert {each.kind for each in check(replace(frozen, exchanges=(*frozen.exchanges[:-1], early)))} == {
        "after_revocation"
    }


def test_cells_that_were_taken_ahead_widen_the_burst_by_what_the_rate_yields_meanwhile() -> None:
    run = ledger(*of_many(20.0, 7, 0.001))(clean())
    held = replace(run, terms=replace(run.terms, held_s=0.2))
    assert {each.kind for each in check(run)} == {"over_rate"}
    assert check(held) == []
    more = ledger(*of_many(20.0, 8, 0.001))(held)
    assert {each.kind for each in check(more)} == {"over_rate"}


def test_without_fresh_buckets_an_epoch_does_not_help() -> None:
    run = RIGHT["a whole burst in each epoch"](clean())
    kept = replace(run, terms=replace(run.terms, is_epoch_fresh=False))
    assert {each.kind for each in check(kept)} == {"over_rate"}


def test_the_run_that_is_right_has_something_of_everything() -> None:
    run = recorded.clean()
    assert {each.result for each in run.exchanges} == {"ok", "cut", "refused"}
    assert all((run.effects, run.faults, run.checkpoints, run.entries, run.state.grants, run.state.marks))
