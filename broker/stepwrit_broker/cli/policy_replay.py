"""`stepwrit policy replay`: what a candidate would have changed in what was decided."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from stepwrit_broker.cli.failures import REFUSED
from stepwrit_broker.cli.locate import Json
from stepwrit_broker.cli.offline import Database, database
from stepwrit_broker.cli.output import YES, print_json, print_table, say
from stepwrit_broker.cli.policy_texts import OpaUrl, folder_policy
from stepwrit_broker.ledger.view import SqliteLedgerView
from stepwrit_broker.registry.units import seconds
from stepwrit_broker.rehearsal.change import (
    EFFECTS,
    Change,
    Kind,
    by_initiator,
    by_tool,
    changes_json,
    effects,
    ordered,
)
from stepwrit_broker.rehearsal.replay import Replay, replay


def _since(text: str) -> float:
    """A duration before now, or a time, in seconds since the epoch."""
    try:
        return time.time() - seconds(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("a duration such as 7d, or a time such as 2026-11-01T00:00:00Z") from None
    return at.timestamp()


def run_replay(
    candidate: Annotated[
        Path,
        typer.Option(
            "--candidate", metavar="DIR", exists=True, file_okay=False, help="The policy folder to ask."
        ),
    ],
    db: Database = None,
    since: Annotated[
        float | None,
        typer.Option(
            "--since", metavar="WHEN", parser=_since, help="From then on: 7d, 12h, 2026-11-01T00:00:00Z."
        ),
    ] = None,
    first: Annotated[
        int,
        typer.Option("--from", metavar="SEQ", min=0, show_default=False, help="From this ledger entry on."),
    ] = 0,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 when anything would change.")
    ] = False,
    opa: OpaUrl = None,
    as_json: Json = False,
) -> None:
    """Ask a candidate every recorded decision, offline: who would have been refused or permitted, and where.

    Each recorded permit and refusal by policy is asked again with the facts and time of then. What cannot be
    asked again is counted, with the reason: refusals that were only counted, erased and sealed entries, and
    documents that are not those that the ledger names.
    """
    policy = folder_policy(candidate)
    with closing(SqliteLedgerView(database(db))) as ledger:
        found = policy.asked(lambda engine: replay(ledger, engine, first=first, since=since or 0.0), opa)
    if as_json:
        print_json(_json(found))
    else:
        _tell(found)
    if exit_code and found.changes:
        raise typer.Exit(REFUSED)


def _tell(found: Replay) -> None:
    tell_changes(found.changes)
    changed = found.asked - found.same
    say(f"{found.asked} decisions asked again: {found.same} the same, {changed} otherwise")
    for effect, count in effects(found.changes).items():
        say(f"  {count} {effect}", style="bold")
    for why, count in sorted(found.left.items()):
        say(f"  {count} not asked again: {why}", style="yellow")
    if found.asked and not changed:
        say(f"{YES} nothing that was recorded would have been decided otherwise")


def tell_changes(changes: Mapping[Kind, Change]) -> None:
    """One line for each kind of change, then who and what it would hit; nothing when there is none."""
    if not changes:
        return
    rows = [
        (
            kind.effect,
            _change(kind),
            kind.asking,
            kind.tool,
            kind.who,
            change.count,
            ", ".join(kind.policies) or "no policy",
            change.last,
        )
        for kind, change in ordered(changes)
    ]
    print_table(
        ("effect", "change", "asked", "tool", "SPIFFE ID", "times", "decided by", "last ref"), rows, empty=""
    )
    for name, groups in (("tool", by_tool(changes)), ("initiator", by_initiator(changes))):
        say("")
        counted = [(each, *(found[effect] or None for effect in EFFECTS)) for each, found in groups.items()]
        print_table((name, *EFFECTS), counted, empty="")
    say("")


def _change(kind: Kind) -> str:
    if kind.effect != "obligations changed":
        return f"{kind.was} → {kind.now}"
    was, now = (
        ", ".join("=".join(filter(None, pair)) for pair in each) or "none" for each in kind.obligations
    )
    return f"{was} → {now}"


def _json(found: Replay) -> dict[str, Any]:
    return {
        "asked": found.asked,
        "same": found.same,
        **changes_json(found.changes),
        "not_asked_again": dict(sorted(found.left.items())),
    }
