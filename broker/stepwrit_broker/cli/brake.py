"""`revoke`, `freeze`, `unfreeze`, `marks`: the brake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import typer

from stepwrit_broker.cli.client import asking
from stepwrit_broker.cli.locate import At, Json, Reason
from stepwrit_broker.cli.output import examples, print_json, print_table, say, when
from stepwrit_broker.core.ids import Kind, is_id, is_ref
from stepwrit_broker.core.marks import TARGETS

_IDS: Final[Mapping[Kind, str]] = {"txn": "txn", "stp": "step", "grt": "grant"}

Target = Annotated[
    str,
    typer.Argument(
        help=f"KIND:NAME, with KIND one of {', '.join(TARGETS)}. A txn_, stp_ or grt_ id, a spiffe:// ID and "
        "`everything` need no KIND."
    ),
]


def target_of(said: str) -> str:
    """`KIND:NAME` of what an operator typed. Raises typer.BadParameter, which tells what there is."""
    if said == "everything":
        return "everything:all"
    if said.startswith("spiffe://"):
        return f"workload:{said}"
    for prefix, kind in _IDS.items():
        if is_id(prefix, said):
            return f"{kind}:{said}"
    kind, colon, name = said.partition(":")
    if kind in TARGETS and colon and name:
        return said
    hint = "; a ref only names a story: take the id from `stepwrit explain`" if is_ref(said) else ""
    raise typer.BadParameter(f"{said!r} is not KIND:NAME, with KIND one of {', '.join(TARGETS)}{hint}")


def revoke(target: Target, reason: Reason, at: At = None, as_json: Json = False) -> None:
    """End something and everything below it, for ever. In force when this returns."""
    _mark("revoke", target, reason, at, as_json)


def freeze(target: Target, reason: Reason, at: At = None, as_json: Json = False) -> None:
    """Stop something until `unfreeze`. In force when this returns."""
    _mark("freeze", target, reason, at, as_json)


def unfreeze(target: Target, reason: Reason, at: At = None, as_json: Json = False) -> None:
    """Lift a freeze. A revocation cannot be lifted."""
    _mark("unfreeze", target, reason, at, as_json)


def marks(at: At = None, as_json: Json = False) -> None:
    """List what is revoked or frozen, by whom and why."""
    with asking(at) as admin:
        standing = admin.get("/marks")
    if as_json:
        print_json(standing)
        return
    rows = [(m["verb"], m["target"], m["by"], when(m["at"]), m["ref"], m["reason"]) for m in standing]
    print_table(
        ("verb", "target", "by", "since", "ref", "reason"), rows, empty="nothing is revoked or frozen"
    )


_DID: Final = {"revoke": "revoked", "freeze": "frozen", "unfreeze": "no longer frozen"}


def _mark(verb: str, said: str, reason: str, at: str | None, as_json: bool) -> None:
    target = target_of(said)
    with asking(at) as admin:
        made = admin.post("/marks", {"verb": verb, "target": target, "reason": reason})
        where = " (development broker)" if admin.place.is_dev else ""
    if as_json:
        print_json(made)
    else:
        say(f"{_DID[verb]}: {made['target']}{where}   ref {made['ref']}")


def register(app: typer.Typer) -> None:
    """Put the commands on the root."""
    panel = "Pull the brake"
    why = "--reason 'incident 31'"
    app.command(
        rich_help_panel=panel,
        epilog=examples(
            f"stepwrit revoke txn_1004H6… {why}", f"stepwrit revoke spiffe://prod.example/agent/chat {why}"
        ),
    )(revoke)
    app.command(
        rich_help_panel=panel,
        epilog=examples(f"stepwrit freeze tool:ledger/transfer {why}", f"stepwrit freeze everything {why}"),
    )(freeze)
    app.command(rich_help_panel=panel, epilog=examples("stepwrit unfreeze everything --reason 'all clear'"))(
        unfreeze
    )
    app.command(rich_help_panel=panel)(marks)
