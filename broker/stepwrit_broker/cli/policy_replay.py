"""`stepwrit policy replay`: what a candidate would have changed in what was decided."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from stepwrit_broker.cli.failures import REFUSED
from stepwrit_broker.cli.locate import Json
from stepwrit_broker.cli.offline import Database, Dsn, place
from stepwrit_broker.cli.output import YES, print_json, say
from stepwrit_broker.cli.policy_changes import tell_asked, tell_changes
from stepwrit_broker.cli.policy_texts import OpaUrl, folder_policy
from stepwrit_broker.flows.replay import replay, replay_json
from stepwrit_broker.ledger.view import LogView
from stepwrit_broker.ledger.where import open_source
from stepwrit_broker.registry.units import seconds


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


Since = Annotated[
    float | None,
    typer.Option(
        "--since", metavar="WHEN", parser=_since, help="From then on: 7d, 12h, 2026-11-01T00:00:00Z."
    ),
]


def run_replay(
    candidate: Annotated[
        Path,
        typer.Option(
            "--candidate", metavar="DIR", exists=True, file_okay=False, help="The policy folder to ask."
        ),
    ],
    db: Database = None,
    dsn: Dsn = None,
    since: Since = None,
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
    with closing(LogView(open_source(place(db, dsn)))) as ledger:
        found = policy.asked(
            lambda engine: replay(ledger, engine.decide, first=first, since=since or 0.0), opa
        )
    told = replay_json(found)
    if as_json:
        print_json(told)
    else:
        tell_changes(told)
        tell_asked(told)
        if found.asked and not found.changes:
            say(f"{YES} nothing that was recorded would have been decided otherwise")
    if exit_code and found.changes:
        raise typer.Exit(REFUSED)
