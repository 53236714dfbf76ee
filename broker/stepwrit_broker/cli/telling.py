"""`explain`, `lineage`, `tail`, `status`: what happened, and how things stand."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.text import Text

from stepwrit_broker.cli.client import AdminClient, asking
from stepwrit_broker.cli.failures import fail
from stepwrit_broker.cli.locate import At, Json
from stepwrit_broker.cli.output import (
    day_clock,
    examples,
    harmless,
    out,
    print_json,
    print_json_lines,
    print_pairs,
)
from stepwrit_broker.cli.render import lineage_tree, origin_badge, story_view
from stepwrit_broker.cli.stitching import as_json as stitched
from stepwrit_broker.cli.stitching import joins, stitched_view

PAGE: Final = 1000
SHOWN: Final = 20
FOLLOW_S: Final = 1.0
REFUSED_KINDS: Final = "refused,refused.counted"


def explain(
    name: Annotated[
        str, typer.Argument(help="A ref (10 characters, from any error or log line), or a txn_ id.")
    ],
    at: At = None,
    as_json: Json = False,
    stitch: Annotated[
        Path | None,
        typer.Option(
            "--stitch",
            metavar="FILE",
            help="The same chain as another trust domain's broker tells it: its `explain --json`. "
            "Exit code 1 where the two do not join.",
        ),
    ] = None,
) -> None:
    """Tell the whole story behind a ref: who started it, each step, what decided, what was refused."""
    with asking(at) as admin:
        story = admin.get(f"/explain/{_path(name)}")
    if stitch is not None:
        _stitch(story, stitch, as_json=as_json)
    elif as_json:
        print_json(story)
    else:
        out().print(story_view(story))


def _stitch(story: Mapping[str, Any], path: Path, *, as_json: bool) -> None:
    """Both stories as one; ends with REFUSED where no grant joins them, or one does not match."""
    try:
        other = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        fail(f"{path}: not JSON; it is the output of `stepwrit explain REF --json` at the other broker")
    if not isinstance(other, dict) or not isinstance(other.get("events"), list):
        fail(f"{path}: no story; it is the output of `stepwrit explain REF --json` at the other broker")
    found = joins(story, other)
    if as_json:
        print_json(stitched(story, other, found))
    else:
        out().print(stitched_view(story, other, found))
    if not found:
        fail("no grant is in both stories: they are not one chain, or one of them is of another transaction")
    if not all(join.holds for join in found):
        fail("the two stories do not match")


def lineage(
    txn: Annotated[str, typer.Argument(help="A transaction's id, txn_…, or any ref in it.")],
    at: At = None,
    as_json: Json = False,
) -> None:
    """Draw a transaction's steps as a tree: person, model and server told apart."""
    with asking(at) as admin:
        story = admin.get(f"/explain/{_path(txn)}")
    if as_json:
        print_json(story.get("steps"))
    else:
        out().print(lineage_tree(story))


def tail(
    at: At = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only refusals.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes; Ctrl-C ends it.")
    ] = False,
    after: Annotated[
        int | None,
        typer.Option(
            "--after", metavar="N", min=-1, help="Entries above this number; -1: all. Default: the last 20."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the newest entries of the ledger, one a line."""
    kinds = REFUSED_KINDS if refused else ""
    with asking(at) as admin:
        status = admin.get("/status")
        home = None if as_json else str(status.get("trust_domain"))
        start = _start(admin, kinds, int(status["ledger"]["size"])) if after is None else after
        start = _show(_pages(admin, start, kinds), start, home)
        with suppress(KeyboardInterrupt):
            while follow:
                time.sleep(FOLLOW_S)
                start = _show(_pages(admin, start, kinds), start, home)


def status(at: At = None, as_json: Json = False) -> None:
    """Show what is in force, how long the ledger is, and who you are to this broker."""
    with asking(at) as admin:
        said = admin.get("/status")
        if as_json:
            print_json(said)
            return
        you, versions, ledger = said["you"], said["versions"], said["ledger"]
        pairs = {
            "broker": said.get("broker_id"),
            "answers on": f"{admin.place.where}{'  (development broker)' if admin.place.is_dev else ''}",
            "issuer": said.get("issuer"),
            "you are": f"{you['name']}, {'an operator' if you['operates'] else 'an auditor: you may read'}",
            "in force": ", ".join(f"{name} v{number}" for name, number in versions.items()),
            "marks": f"{said['marks']} standing{'' if not said['marks'] else ' (stepwrit marks)'}",
            "ledger": f"{ledger['size']} entries, root {ledger['root'][:16]}…",
            "epoch": said["epoch"],
        }
        print_pairs(pairs)


def _path(name: str) -> str:
    """What cannot be a name is left to the API to refuse, as one path segment."""
    return quote(name.replace("/", "_"), safe="")


def _start(admin: AdminClient, kinds: str, size: int) -> int:
    """The number before the last SHOWN entries of these kinds."""
    if not kinds:
        return size - 1 - SHOWN
    last: deque[int] = deque((entry["seq"] for entry in _pages(admin, -1, kinds)), maxlen=SHOWN)
    return last[0] - 1 if last else -1


def _pages(admin: AdminClient, after: int, kinds: str) -> Iterator[Mapping[str, Any]]:
    while True:
        page = admin.get("/ledger/tail", after=max(after, -1), limit=PAGE, kinds=kinds)
        yield from page
        if not page:
            return
        after = page[-1]["seq"]


def _show(entries: Iterator[Mapping[str, Any]], start: int, home: str | None) -> int:
    """Print them, as JSON without a home; the number of the last one. home: the IDs' usual trust domain."""
    for entry in entries:
        if home is None:
            print_json_lines([entry])
        else:
            out().print(_line(entry, home), soft_wrap=True)
        start = entry["seq"]
    return start


def _line(entry: Mapping[str, Any], home: str) -> Text:
    facts: Mapping[str, Any] = entry["facts"] or {}
    line = Text(f"{entry['seq']:>6}  ", style="dim")
    line.append(f"{day_clock(entry['at'])}  {entry['ref'] or '-':<10}  ", style="dim")
    line.append(f"{entry['kind']:<15}  ", style="bold red" if entry["kind"].startswith("refused") else "bold")
    if facts.get("origin"):
        line.append(origin_badge(facts["origin"]))
        line.append(" ")
    said = _summary(entry["kind"], facts) if facts else "(its body is in an export)"
    return line.append(harmless(said.replace(f"spiffe://{home}/", "")))


def _summary(kind: str, facts: Mapping[str, Any]) -> str:  # noqa: PLR0911  one line for each kind
    match kind:
        case "refused":
            said = f"{facts.get('code')}: {facts.get('reason')}  {facts.get('tool') or facts.get('verb')}"
            return f"{said}  by {facts.get('caller')}"
        case "question.answered":
            said = str(facts.get("code") or facts.get("answer"))
            return f"{said}  {facts.get('asking')} {facts.get('tool')}  asked by {facts.get('caller')}"
        case "refused.counted" if "unattested" in facts:
            return "unattested: " + ", ".join(f"{n} × {why}" for why, n in facts["unattested"].items())
        case "refused.counted" | "question.counted":
            return f"{facts.get('counted')} more by {facts.get('caller')}"
        case "step.opened":
            who = f"{facts.get('initiator')} → {facts.get('performer')}"
            return f"{facts.get('tool')} ({facts.get('impact')})  {who}"
        case "intent.opened":
            by = facts.get("proof") or ("without a step" if facts.get("without_step") else "trigger")
            return f"{by}  {facts.get('initiator')}"
        case "mark.set" | "mark.lifted":
            return f"{facts.get('verb')} {facts.get('target')} by {facts.get('by')}: {facts.get('reason')}"
        case "version.applied":
            return (
                f"{facts.get('document')} v{facts.get('number')} by {facts.get('by')}: {facts.get('reason')}"
            )
        case _ if kind.startswith(("approval.", "authenticator.")):
            return _by_person(kind, facts)
        case _:
            return "  ".join(str(facts[name]) for name in _TELLING if facts.get(name))


def _by_person(kind: str, facts: Mapping[str, Any]) -> str:
    by = facts.get("by") or facts.get("invited_by")
    if kind.startswith("authenticator."):
        what = facts.get("authenticator") or facts.get("invitation")
        return f"{what} of {facts.get('person')} by {by}: {facts.get('reason') or '-'}"
    who = facts.get("authenticator") or by
    return f"{facts.get('tool')}  {facts.get('approval')}{f' by {who}' if who else ''}"


_TELLING: Final = ("tool", "outcome", "method", "audience", "redeemer", "performer", "broker", "kid")


def register(app: typer.Typer) -> None:
    """Put the commands on the root."""
    panel = "See what happened"
    app.command(
        rich_help_panel=panel,
        epilog=examples(
            "stepwrit explain 7Q2K9MZX4D",
            "stepwrit explain 7Q2K9MZX4D --json | jq .root",
            "stepwrit explain 7Q2K9MZX4D --stitch theirs.json",
        ),
    )(explain)
    app.command(rich_help_panel=panel, epilog=examples("stepwrit lineage txn_1004H6…"))(lineage)
    app.command(
        rich_help_panel=panel,
        epilog=examples("stepwrit tail --refused --follow", "stepwrit tail --after -1 --json > ledger.jsonl"),
    )(tail)
    app.command(rich_help_panel=panel)(status)
