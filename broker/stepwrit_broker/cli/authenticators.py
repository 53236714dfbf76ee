"""`authenticators list|invite|approve|retire`: with what persons sign, and the operator's word on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import typer
from rich.text import Text

from stepwrit_broker.cli import authenticators_add
from stepwrit_broker.cli.client import asking
from stepwrit_broker.cli.locate import At, Json, Reason
from stepwrit_broker.cli.output import examples, harmless, out, print_json, say, when

StateWord = Literal["proposed", "active", "retired", "all"]
_STYLES: Final = {"proposed": "bold yellow", "active": "green", "retired": "dim"}
_RETIRED: Final = "retired"

app = typer.Typer(
    no_args_is_help=True,
    help="With what persons sign: invite them to make a passkey, approve it by its fingerprint, retire it.",
)
authenticators_add.add_to(app)

Name = Annotated[str, typer.Argument(metavar="AUTHENTICATOR", help="Its id, aut_…")]


@app.command("list", epilog=examples("stepwrit authenticators list", "stepwrit authenticators list --json"))
def list_authenticators(
    state: Annotated[
        StateWord | None, typer.Option("--state", help="Those in this state. Default: all but retired.")
    ] = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """List passkeys and keys, oldest first, with the fingerprints that persons read to you."""
    with asking(at) as admin:
        found = [each for each in admin.get("/authenticators") if _is_wanted(each["state"], state)]
    if as_json:
        print_json(found)
        return
    if not found:
        say("no authenticators", style="dim")
    for number, each in enumerate(found):
        out().print(_shown(each, is_first=number == 0), soft_wrap=True)


def _is_wanted(state: str, wanted: StateWord | None) -> bool:
    return wanted == "all" or (state != _RETIRED if wanted is None else state == wanted)


def _shown(each: Mapping[str, Any], *, is_first: bool) -> Text:
    who = each["person"] or f"{each['subject']} of {each['issuer']}"
    label = f" “{each['label']}”" if each["label"] else ""
    return Text.assemble(
        "" if is_first else "\n",
        (each["state"], _STYLES.get(each["state"], "")),
        harmless(f"  {each['kind']}{label} of {who}, proposed {when(each['proposed_at'])}\n", keep="\n"),
        f"  fingerprint {each['fingerprint']}\n",
        (f"  {each['id']}", "dim"),
    )


@app.command(
    epilog=examples(
        "stepwrit authenticators invite --person bob --reason 'new laptop'",
        "stepwrit authenticators invite --issuer https://login.example --subject 00u1… --reason first",
    )
)
def invite(
    reason: Reason,
    person: Annotated[
        str | None, typer.Option("--person", metavar="NAME", help="Whom: a name of the registry's persons.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="URL", help="Whom, without a name: the issuer …")
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="… and the subject there.")] = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Make a link for one person, good once and for 15 minutes. Whoever opens it may PROPOSE a passkey.

    What is proposed counts for nothing until you approve it: let the person read you its fingerprint.
    """
    body = {"person": person, "issuer": issuer, "subject": subject, "reason": reason}
    with asking(at) as admin:
        made = admin.post("/authenticators/invitations", body)
    if as_json:
        print_json(made)
        return
    say(made["url"])
    say(f"for {made['person'] or made['subject']}, once, until {when(made['expires_at'])}", style="dim")
    say("then: stepwrit authenticators list, and approve with the fingerprint they read to you", style="dim")


@app.command(
    epilog=examples(
        "stepwrit authenticators approve aut_kPrK… --fingerprint 3kq9d-0v1zc-ttm4h-8mx2n-9wq7 -r 'by phone'"
    )
)
def approve(
    name: Name,
    fingerprint: Annotated[
        str,
        typer.Option(
            "--fingerprint",
            "-f",
            prompt="Fingerprint, as the person reads it to you",
            help="As the person reads it to you: not from the list, and not from a message.",
        ),
    ],
    reason: Reason,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Let a proposed passkey count. It takes the fingerprint that its owner sees and reads to you."""
    body = {"fingerprint": fingerprint, "reason": reason}
    with asking(at) as admin:
        made = admin.post(f"/authenticators/{_path(name)}/approve", body)
    _tell(made, as_json)


@app.command(epilog=examples("stepwrit authenticators retire aut_kPrK… --reason 'laptop lost'"))
def retire(name: Name, reason: Reason, at: At = None, as_json: Json = False) -> None:
    """Let one count no more, for ever; sessions that began with it end. In force when this returns."""
    with asking(at) as admin:
        made = admin.post(f"/authenticators/{_path(name)}/retire", {"reason": reason})
    _tell(made, as_json)


def _path(name: str) -> str:
    if (
        not name.startswith("aut_")
        or not name.removeprefix("aut_").replace("-", "").replace("_", "").isalnum()
    ):
        raise typer.BadParameter(
            f"{name!r} is not the id of an authenticator: aut_…", param_hint="AUTHENTICATOR"
        )
    return name


def _tell(made: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        say(f"{made['state']}: {made['id']}   of {made['person'] or made['subject']}")
