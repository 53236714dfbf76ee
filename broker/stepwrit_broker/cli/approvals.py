"""`approvals list|show|remind|cancel`: what waits for persons, from the operator's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import typer
from rich.text import Text

from stepwrit_broker.cli import approvals_verify
from stepwrit_broker.cli.client import asking
from stepwrit_broker.cli.locate import At, Json, Reason
from stepwrit_broker.cli.output import examples, harmless, out, print_json, print_pairs, say, when
from stepwrit_broker.cli.render import origin_badge
from stepwrit_broker.core.ids import is_id

Approval = Mapping[str, Any]
StateWord = Literal["asked", "given", "used", "denied", "cancelled", "expired", "all"]
_STYLES: Final = {"asked": "bold cyan", "given": "green", "used": "green"}

app = typer.Typer(
    no_args_is_help=True,
    help="See what waits for a person's signature; remind the persons, or cancel it. Nobody can sign here.",
)
app.command(
    epilog=examples(
        "stepwrit approvals verify apr_1004H6…",
        "stepwrit approvals verify --export 2026-11.jsonl --documents 2026-11.docs.jsonl --key log.vkey",
    )
)(approvals_verify.verify)
Name = Annotated[str, typer.Argument(metavar="APPROVAL", help="Its id, apr_…")]


@app.command(
    "list",
    epilog=examples("stepwrit approvals list", "stepwrit approvals list --state all --tool ledger/transfer"),
)
def list_approvals(
    state: Annotated[StateWord, typer.Option("--state", help="Those in this state.")] = "asked",
    txn: Annotated[str | None, typer.Option("--txn", metavar="TXN", help="Of one transaction.")] = None,
    tool: Annotated[str | None, typer.Option("--tool", metavar="SERVER/TOOL", help="Of one tool.")] = None,
    initiator: Annotated[
        str | None, typer.Option("--initiator", metavar="SPIFFE_ID", help="Asked for by this workload.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 200,
    at: At = None,
    as_json: Json = False,
) -> None:
    """List approvals, newest first: by default those that wait."""
    given = {"state": state, "txn": txn, "tool": tool, "initiator": initiator, "limit": limit}
    with asking(at) as admin:
        found = admin.get("/approvals", **{name: value for name, value in given.items() if value is not None})
    if as_json:
        print_json(found)
        return
    if not found:
        say("nothing waits for a person" if state == "asked" else "no such approval", style="dim")
    for number, each in enumerate(found):
        if number:
            out().print()
        out().print(_short(each, _now()), soft_wrap=True)


@app.command(epilog=examples("stepwrit approvals show apr_1004H6…"))
def show(name: Name, at: At = None, as_json: Json = False) -> None:
    """Show one: what is asked, by which policies, who signed, who still may.

    The text that persons read, and the arguments in it, are shown to those who may sign and to nobody else.
    """
    with asking(at) as admin:
        found = admin.get(f"/approvals/{checked(name)}")
    if as_json:
        print_json(found)
        return
    out().print(_head(found), soft_wrap=True)
    print_pairs(_pairs(found, _now()))


@app.command(epilog=examples("stepwrit approvals remind apr_1004H6…"))
def remind(name: Name, at: At = None, as_json: Json = False) -> None:
    """Tell those who may sign it once more, by mail and webhook as configured."""
    with asking(at) as admin:
        found = admin.post(f"/approvals/{checked(name)}/remind", {})
    if as_json:
        print_json(found)
    else:
        say(f"told again: {', '.join(found['may_still_sign']) or 'nobody may still sign'}   {found['url']}")


@app.command(epilog=examples("stepwrit approvals cancel apr_1004H6… --reason 'asked by a broken job'"))
def cancel(name: Name, reason: Reason, at: At = None, as_json: Json = False) -> None:
    """End an approval and the step that waits for it. In force when this returns."""
    with asking(at) as admin:
        found = admin.post(f"/approvals/{checked(name)}/cancel", {"reason": reason})
    if as_json:
        print_json(found)
    else:
        say(f"{found['state']}: {found['tool']} of {found['step']}   ref {found['ref']}")


def checked(name: str) -> str:
    """The id. Raises typer.BadParameter for what is none."""
    if not is_id("apr", name):
        raise typer.BadParameter(f"{name!r} is not an approval's id: apr_ and 29 letters and digits")
    return name


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _head(each: Approval) -> Text:
    line = origin_badge(each["origin"])
    line.append(f" {harmless(each['tool'])}", style="bold")
    line.append(f"  {each['impact']} impact", style="bold red" if each["impact"] == "high" else "")
    line.append(f"  {each['state']}", style=_STYLES.get(each["state"], "yellow"))
    return line


def _short(each: Approval, now: float) -> Text:
    line = _head(each)
    line.append(f"\n{each['id']}", style="dim")
    line.append(f"\n{_waits(each, now)}")
    line.append(f"\nfor {harmless(_for(each))}, asked by {harmless(each['initiator'])}", style="dim")
    return line


def _waits(each: Approval, now: float) -> str:
    if each["state"] != "asked":
        return f"asked {when(each['asked_at'])}, {each['state']} {when(each['ended_at'])}".removesuffix(" -")
    who = ", ".join(each["may_still_sign"]) or "nobody who may sign is left"
    return f"{each['missing']} more of {harmless(who)}; {left(each['expires_at'] - now)}"


def left(seconds: float) -> str:
    """`12 min left`."""
    if seconds <= 0:
        return "its time is over"
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"


def _for(each: Approval) -> str:
    return str(each["requester"] or f"a trigger of {each['owner']}")


def _pairs(each: Approval, now: float) -> dict[str, object]:
    terms = [_term(one) for one in each["terms"]]
    pairs: dict[str, object] = {
        "approval": each["id"],
        "page": each["url"],
        "step": each["step"],
        "transaction": each["txn"],
        "ref": each["ref"],
        "asked by": each["initiator"],
        "done by": each["performer"],
        "for": _for(each),
        "demanded by": f"{', '.join(each['policies'])} (policy v{each['versions'].get('policy')})",
        "needs": " and ".join(terms),
        "asked": when(each["asked_at"]),
        "expires": f"{when(each['expires_at'])}  ({left(each['expires_at'] - now)})",
        "signed by": "; ".join(map(_signature, each["signed"])) or "nobody yet",
        "digest": each["digest"],
    }
    if each["state"] == "asked":
        pairs["still to come"] = f"{each['missing']} of {', '.join(each['may_still_sign']) or 'nobody'}"
    if each["ended_at"]:
        pairs["ended"] = f"{when(each['ended_at'])} by {each['by'] or 'the broker'}: {each['reason'] or '-'}"
    return pairs


def _term(each: Mapping[str, Any]) -> str:
    own = "" if not each["requester"] else "the requester" if each["alone"] else "the requester (not alone)"
    names: Sequence[str] = [*([own] if own else []), *each["persons"]]
    return f"{each['count']} of {', '.join(names)}"


def _signature(each: Mapping[str, Any]) -> str:
    return f"{each['person'] or each['by']} by {each['method']} at {when(each['at'])}"
