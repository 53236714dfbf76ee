"""`authenticators add`: an operator registers a key that an approver gave them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepwrit_broker.cli.client import asking
from stepwrit_broker.cli.locate import At, Json, Reason
from stepwrit_broker.cli.output import examples, print_json, say


def add(
    key: Annotated[
        Path, typer.Option("--key", metavar="FILE.pub", exists=True, help="Ed25519 or P-256; PEM or OpenSSH.")
    ],
    reason: Reason,
    person: Annotated[
        str | None, typer.Option("--person", metavar="NAME", help="Whose: a name of the registry's persons.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="URL", help="Whose, without a name: the issuer …")
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="… and the subject there.")] = None,
    label: Annotated[str, typer.Option("--label", help="What the person calls it.")] = "",
    at: At = None,
    as_json: Json = False,
) -> None:
    """Register an approver's public key. From then on its signatures count as that person's.

    Take the file from the person, not from a message in their name; let them read you the fingerprint.
    """
    body = {"person": person, "issuer": issuer, "subject": subject, "key": key.read_text("utf-8")}
    with asking(at) as admin:
        made = admin.post("/authenticators", {**body, "label": label, "reason": reason})
    if as_json:
        print_json(made)
    else:
        say(f"active: {made['id']}   of {made['subject']} at {made['issuer']}")
        say(f"fingerprint {made['fingerprint']}")


def add_to(app: typer.Typer) -> None:
    """Put it into the group `authenticators`."""
    app.command(
        epilog=examples(
            "stepwrit authenticators add --person bob --key bob.pub --reason 'handed over in person'"
        )
    )(add)
