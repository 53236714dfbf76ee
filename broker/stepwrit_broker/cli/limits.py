"""`limits list|set|explain`: one limit at a time."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from stepwrit_broker.cli.client import asking
from stepwrit_broker.cli.locate import At, Json, Reason
from stepwrit_broker.cli.output import examples, print_json, print_table, say
from stepwrit_broker.cli.showing import summary

Origin = Literal["human", "model", "server"]


def list_limits(at: At = None, as_json: Json = False) -> None:
    """List the limits in force."""
    with asking(at) as admin:
        doc = json.loads(admin.get("/limits")["doc"])
    if as_json:
        print_json(doc)
    else:
        summary("limits", doc)


def set_rate(
    name: Annotated[str, typer.Argument(help="The limit's name, as in `stepwrit limits list`.")],
    rate: Annotated[str, typer.Argument(help="Such as 10/s, 600/min, 100/h or 1000/day.")],
    reason: Reason,
    burst: Annotated[
        int | None, typer.Option("--burst", min=1, help="How many at once. Default: as it is.")
    ] = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Change one rate; in force on the next request. `stepwrit limits undo` takes it back."""
    with asking(at) as admin:
        version = admin.post("/limits/rate", {"name": name, "rate": rate, "burst": burst, "reason": reason})
    if as_json:
        print_json(version)
        return
    more = "" if burst is None else f", burst {burst}"
    say(f"limits v{version['version']} in force: {name} {rate}{more}")


def explain(
    workload: Annotated[str, typer.Option("--as", metavar="SPIFFE_ID", help="Whose requests.")],
    tool: Annotated[str, typer.Option("--tool", metavar="SERVER/TOOL", help="Which tool.")] = "",
    origin: Annotated[Origin, typer.Option("--origin", help="Who started the step.")] = "model",
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show which rate limits such a request meets, and what is left of each now."""
    with asking(at) as admin:
        lines = admin.get("/limits/explain", **{"as": workload, "tool": tool, "origin": origin})
    if as_json:
        print_json(lines)
        return
    rows = [
        (
            each["limit"],
            each["on"],
            ", ".join(each["per"]) or "all",
            each["rate"],
            f"{each['left_now']} of {each['burst']}",
        )
        for each in lines
    ]
    print_table(
        ("limit", "on", "for each", "rate", "left now"), rows, empty="no rate limit speaks of this request"
    )


def add_limits(app: typer.Typer) -> None:
    """Put the commands into the `limits` group."""
    app.command("list")(list_limits)
    app.command(
        "set", epilog=examples("stepwrit limits set per-workload 300/min --burst 50 --reason 'first week'")
    )(set_rate)
    app.command(
        "explain",
        epilog=examples("stepwrit limits explain --as spiffe://prod.example/chat --tool ledger/transfer"),
    )(explain)
