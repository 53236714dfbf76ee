"""`stepwrit policy shadow` and `impact`: a policy beside the one in force, and what it would change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.client import asking
from stepwrit_broker.cli.failures import REFUSED
from stepwrit_broker.cli.locate import At, Json, Reason
from stepwrit_broker.cli.output import YES, examples, print_json, print_table, say, when
from stepwrit_broker.cli.policy_changes import tell_asked, tell_changes
from stepwrit_broker.cli.policy_replay import Since
from stepwrit_broker.cli.policy_texts import exported
from stepwrit_broker.wiring.documents import document_text

Candidate = Annotated[
    str,
    typer.Argument(
        metavar="CANDIDATE", help="A policy folder, an exported file, or a version number of the broker's."
    ),
]
Found = Mapping[str, Any]


def _body(given: str) -> dict[str, object]:
    """The candidate as the broker takes it. Raises ConfigurationError, Malformed."""
    path = Path(given)
    if path.is_dir():
        return {"text": document_text("policy", path), "label": str(path.absolute())}
    if path.is_file():
        return {"text": exported(path), "label": str(path.absolute())}
    if given.isdigit() and int(given) > 0:
        return {"version": int(given)}
    raise ConfigurationError(f"{given} is no folder, no file and no version number")


def start(candidate: Candidate, reason: Reason, at: At = None, as_json: Json = False) -> None:
    """Run a policy beside the one in force: asked all that is asked, deciding nothing.

    It runs in a process of its own, over restarts of the broker, until `shadow stop`.
    """
    with asking(at) as admin:
        found = admin.post("/policy/shadow", {**_body(candidate), "reason": reason})
    if as_json:
        print_json(found)
        return
    shadow, live = found["shadow"], found["live"]
    beside = "with no policy in force" if live is None else f"beside v{live['version']}"
    say(f"{YES} {shadow['candidate']} runs {beside}   {shadow['digest']}   ref {shadow['ref']}")


def status(at: At = None, as_json: Json = False) -> None:
    """Say what the shadow found: how often it disagrees, at which tools, for whom, by which policies."""
    with asking(at) as admin:
        found = admin.get("/policy/shadow")
    if as_json:
        print_json(found)
    else:
        tell_status(found)


def tell_status(found: Found) -> None:
    """The answer of the API, for people."""
    if found["shadow"] is not None:
        _tell_running(found)
    elif found["waiting_to_resume"] is not None:
        name, why = found["waiting_to_resume"]["candidate"], found["trouble"] or "it is being started"
        say(f"{name} does not run since the broker's restart\n  {why}", style="yellow")
    else:
        say("no shadow is running")
    if found["last"] is not None:
        last = found["last"]
        say(f"\nthe last one, {last['candidate']}, was ended by {last['ended_by']}, {when(last['ended_at'])}")
        _tell_found(last)


def _tell_running(found: Found) -> None:
    shadow, live = found["shadow"], found["live"]
    say(f"{shadow['candidate']}   {shadow['digest']}", style="bold")
    say(f"since {when(shadow['since'])}, by {shadow['by']}: {shadow['reason']}   ref {shadow['ref']}")
    if shadow["resumed_at"] is not None:
        say(f"counting anew since the broker's restart, {when(shadow['resumed_at'])}", style="yellow")
    if live is not None:
        say(f"in force: v{live['version']}   {live['digest']}")
    if shadow["is_in_force"]:
        say("this very policy is in force now: stop the shadow", style="yellow")
    _tell_found(shadow)
    if shadow["waiting"]:
        say(f"  {shadow['waiting']} waiting, of at most {shadow['queue']}", style="dim")


def _tell_found(found: Found) -> None:
    if "compared" not in found:
        return
    say("")
    tell_changes(found)
    rows = [(each["live"], each["shadow"], each["count"]) for each in found["verdicts"]]
    if rows:
        print_table(("live", "shadow", "decisions"), rows, empty="")
        say("")
    say(f"{found['compared']} decisions compared, {found['same']} the same")
    for effect, count in found["effects"].items():
        say(f"  {count} {effect}", style="bold")
    if found["uncounted_changes"]:
        say(f"  {found['uncounted_changes']} of more kinds than are kept one by one", style="yellow")
    if found["dropped"]:
        say(f"  {found['dropped']} not asked: the queue was full", style="yellow")
    for why, count in found["errors"].items():
        say(f"  {count} without an answer: {why}", style="yellow")


def stop(reason: Reason, at: At = None, as_json: Json = False) -> None:
    """End the shadow, and say what it found."""
    with asking(at) as admin:
        found = admin.post("/policy/shadow/stop", {"reason": reason})
    if as_json:
        print_json(found)
        return
    say(f"{YES} {found['candidate']} has ended")
    _tell_found(found)


def impact(
    candidate: Candidate,
    since: Since = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 when anything would change.")
    ] = False,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Report what a policy would change: who would be refused or permitted otherwise, at which tools.

    The broker asks the policy its recorded decisions again, in a process of its own, and adds what a shadow
    of the same policy found. The report is on record, and is what an activation can be made to need.
    """
    with asking(at) as admin:
        found = admin.post("/policy/impact", {**_body(candidate), "since": since})
    if as_json:
        print_json(found)
    else:
        tell_impact(found)
    seen = (found["replay"], found["shadow"] or {"effects": {}})
    if exit_code and any(each["effects"] for each in seen):
        raise typer.Exit(REFUSED)


def tell_impact(found: Found) -> None:
    """The answer of the API, for people."""
    live, replay, shadow = found["live"], found["replay"], found["shadow"]
    say(f"{found['candidate']}   {found['digest']}", style="bold")
    in_force = "no policy is in force" if live is None else f"in force: v{live['version']}   {live['digest']}"
    say(f"{in_force}\n")
    if found["is_in_force"]:
        say("this very policy is in force\n", style="yellow")
    tell_changes(replay)
    say(f"recorded since {when(found['since'])}, entries {replay['first_entry']} to {replay['last_entry']}")
    tell_asked(replay)
    if replay["entries_not_reached"]:
        say(f"  {replay['entries_not_reached']} newer entries not reached in the time for it", style="yellow")
    if shadow is not None:
        say(f"\nin the shadow since {when(shadow['resumed_at'] or shadow['since'])}", style="bold")
        _tell_found(shadow)
    use = "an activation needs one" if found["needed"] else "no activation needs one"
    say(f"\nreport {found['ref']}, good until {when(found['valid_until'])} or the next activation; {use}")


def add_shadow(app: typer.Typer) -> None:
    """Put the commands into the `policy` group."""
    group = typer.Typer(help="Run a policy beside the one in force.", no_args_is_help=True)
    group.command(
        "start", epilog=examples("stepwrit policy shadow start policy/ --reason 'cap on transfers, a week'")
    )(start)
    group.command("status")(status)
    group.command("stop", epilog=examples("stepwrit policy shadow stop --reason 'seen enough'"))(stop)
    app.add_typer(group, name="shadow")
    app.command(
        "impact",
        epilog=examples("stepwrit policy impact policy/ --since 7d", "stepwrit policy impact 6 --json"),
    )(impact)
