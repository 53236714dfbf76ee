"""`approve`, `deny`: an approver's word from the command line, signed by their own key."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from stepwrit.digest import DigestError, args_digest
from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.failures import fail
from stepwrit_broker.cli.locate import Json, read_dev
from stepwrit_broker.cli.output import err, examples, harmless, print_json, say, when
from stepwrit_broker.core.approval_text import text_digest
from stepwrit_broker.core.ids import is_id
from stepwrit_broker.core.statement import APPROVAL, read_statement

if TYPE_CHECKING:
    from stepwrit_broker.cli.approver_key import ApproverKey

WORD: Final = "allow"
Wanted = Annotated[
    str,
    typer.Argument(
        metavar="APR", help="The approval's id, or the address of its page, which also says --url."
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="ISSUER",
        envvar="STEPWRIT_ISSUER",
        help="The broker's issuer URL. Default: a development broker's.",
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="PEM of a private CA. Default: the CAs of this system; for a development broker here its own.",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        envvar="STEPWRIT_APPROVER_KEY",
        help="Your private key; or its .pub, if ssh-agent or a token holds the private part. "
        "Default: ~/.ssh/id_ed25519, ~/.ssh/id_ecdsa.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a broker showed, after this command computed its digests itself. attempt: None when it is over."""

    id: str
    document: Mapping[str, Any]
    digest: str
    text: Sequence[str]
    attempt: str | None
    answer: Mapping[str, Any]


def approve(
    wanted: Annotated[
        str | None,
        typer.Argument(
            metavar="[APR]", help="The approval's id or its page's address. Without: list what waits."
        ),
    ] = None,
    key: Key = None,
    url: Url = None,
    ca: Ca = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; only with --digest.")] = False,
    digest: Annotated[
        str | None, typer.Option("--digest", metavar="DIGEST", help="Sign only what has this digest.")
    ] = None,
    to_print: Annotated[
        bool,
        typer.Option("--print", help="Print what is to be signed, to sign it elsewhere; the text on stderr."),
    ] = False,
    signature: Annotated[
        Path | None,
        typer.Option(
            "--signature",
            metavar="DOC.sig",
            help=f"Hand in what `ssh-keygen -Y sign -n {APPROVAL}` made of DOC, which lies beside it.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign an approval with your own key, after you have read it; without one, list what waits for you.

    The broker must know the key: `stepwrit authenticators add`. This command computes the digest of what it
    shows, and signs nothing else.
    """
    if yes and digest is None:
        raise typer.BadParameter("--yes needs --digest: nobody signs blindly")
    issuer, name = _place(wanted, url)
    if name is None:
        _list(issuer, key, ca, as_json)
    elif signature is not None:
        _hand_in(issuer, name, ca, signature, as_json)
    else:
        _sign(issuer, name, key, ca, _Manner(yes=yes, digest=digest, only_print=to_print, as_json=as_json))


def deny(
    wanted: Wanted,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; the ledger keeps it.")],
    freeze: Annotated[
        bool,
        typer.Option("--freeze", help="And nothing of its transaction goes on, until an operator says so."),
    ] = False,
    key: Key = None,
    url: Url = None,
    ca: Ca = None,
    as_json: Json = False,
) -> None:
    """Say no to an approval: its step ends."""
    issuer, name = _place(wanted, url)
    from stepwrit_broker.cli.approver_client import approver  # noqa: PLC0415  cryptography comes with it

    with approver(issuer, ca) as client:
        answer = client.deny(_key(key), name or "", reason, freeze=freeze)
    if as_json:
        print_json(answer)
    else:
        say(f"denied: {answer['id']}{', its transaction is frozen' if freeze else ''}   ref {answer['ref']}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manner:
    yes: bool
    digest: str | None
    only_print: bool
    as_json: bool


def _sign(issuer: str, name: str, key: Path | None, ca: Path | None, how: _Manner) -> None:
    from stepwrit_broker.cli.approver_client import approver  # noqa: PLC0415

    mine = _key(key)
    with approver(issuer, ca) as client:
        shown = checked(client.get(mine, f"/{name}"), name, issuer)
        if how.digest is not None and how.digest != shown.digest:
            fail(f"it has another digest than you gave ({shown.digest}); nothing was signed")
        if shown.attempt is None:
            fail(f"this approval is {shown.answer['state']}; there is nothing to sign")
        said = client.statement(mine, name, shown.attempt, shown.digest)
        if not how.yes:
            _show(shown, mine)
        if how.only_print:
            sys.stdout.buffer.write(said)
            return
        if not how.yes and not _is_meant():
            fail("nothing was signed")
        answer = client.sign(name, mine.id, shown.attempt, mine.sign(APPROVAL, said))
    _told(answer, how.as_json)


def _hand_in(issuer: str, name: str, ca: Path | None, signature: Path, as_json: bool) -> None:
    from stepwrit_broker.approvals.sshsig import dearmored  # noqa: PLC0415
    from stepwrit_broker.cli.approver_client import approver  # noqa: PLC0415

    document = signature.with_suffix("")
    try:
        said = read_statement(APPROVAL, document.read_bytes())
        blob = dearmored(signature.read_text("ascii"))
    except ValueError as bad:
        fail(f"{document} and {signature} are not what `approve --print` and ssh-keygen made: {bad}")
    if (said.get("approval"), said.get("issuer")) != (name, issuer):
        fail(f"{document} is about another approval, or for another broker")
    with approver(issuer, ca) as client:
        _told(client.sign(name, str(said.get("key")), str(said.get("attempt")), blob), as_json)


def _list(issuer: str, key: Path | None, ca: Path | None, as_json: bool) -> None:
    from stepwrit_broker.cli.approver_client import approver  # noqa: PLC0415

    with approver(issuer, ca) as client:
        answer = client.get(_key(key))
    if as_json:
        print_json(answer)
        return
    for each in answer["waiting"]:
        until = when(each["expires_at"])
        say(f"{each['id']}  {each['tool']} ({each['impact']}) by {each['initiator']}, until {until}")
    if not answer["waiting"]:
        say("nothing waits for you", style="dim")


def checked(answer: Mapping[str, Any], name: str, issuer: str) -> Shown:
    """What the broker showed, if it is what would be signed. Fails where a digest is of something else."""
    try:
        document, text = dict(answer["document"]), [str(line) for line in answer["text"] or ()]
        digest = args_digest(document)
        if (answer["issuer"], document["id"]) != (issuer, name):
            fail(
                f"the broker there calls itself {harmless(str(answer['issuer']))}, or showed another approval"
            )
        if digest != answer["digest"] or (
            answer["text"] is not None and text_digest(text) != document["text"]
        ):
            fail("the digest is not that of what the broker shows; nothing was signed: tell its operator")
    except (KeyError, TypeError, DigestError):
        fail("the broker's answer is not an approval; is it of this version?")
    attempt = answer.get("attempt")
    shown = attempt if isinstance(attempt, str) and text else None
    return Shown(id=name, document=document, digest=digest, text=text, attempt=shown, answer=answer)


def _show(shown: Shown, key: ApproverKey) -> None:
    """On stderr: standard output is for the answer, or for the bytes to sign."""
    more = shown.answer["missing"]
    until, s = when(shown.document["expires_at"]), "" if more == 1 else "s"
    head = f"{shown.id}: waits for {more} signature{s} until {until}"
    tail = [f"digest {shown.digest}", f"key    {key.id} ({key.where})"]
    for line in (head, "", *(f"  {harmless(each)}" for each in shown.text), "", *tail):
        err().print(line, markup=False, soft_wrap=True)


def _is_meant() -> bool:
    if not sys.stdin.isatty():
        fail("there is nobody to ask: read it first, then give --yes --digest DIGEST")
    said: str = typer.prompt(f"Type {WORD} to sign this once", default="", show_default=False, err=True)
    return said.strip().lower() == WORD


def _told(answer: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    elif answer["state"] == "given":
        say(f"signed: {answer['id']} is given; the step may run once   ref {answer['ref']}")
    else:
        say(f"signed: {answer['id']}; others must still sign   ref {answer['ref']}")


def _place(wanted: str | None, url: str | None) -> tuple[str, str | None]:
    """The issuer and the approval. Raises typer.BadParameter, ConfigurationError."""
    page, slash, name = (wanted or "").rpartition("/approvals/")
    dev = None if slash or url else read_dev(None)
    issuer = page if slash else url or (dev and dev.issuer)
    if not issuer:
        raise ConfigurationError("which broker? give --url ISSUER, STEPWRIT_ISSUER, or the page's address")
    parts = urlsplit(issuer.rstrip("/"))
    if parts.scheme != "https" or not parts.hostname or parts.path or parts.query or parts.username:
        raise typer.BadParameter(f"{harmless(issuer)} is not an issuer: https, host and port alone")
    if wanted is not None and not is_id("apr", name if slash else wanted):
        raise typer.BadParameter(f"{harmless(wanted)} is not an approval's id (apr_…) or page")
    return issuer.rstrip("/"), None if wanted is None else name if slash else wanted


def _key(given: Path | None) -> ApproverKey:
    from stepwrit_broker.cli.approver_key import load_key, usual_key  # noqa: PLC0415

    return load_key(given or usual_key())


def register(app: typer.Typer) -> None:
    """Put the commands on the root."""
    panel, page = "Approve", "https://broker.example:8444/approvals/apr_1004H6…"
    app.command(
        rich_help_panel=panel,
        epilog=examples(
            "stepwrit approve --url https://broker.example:8444",
            f"stepwrit approve {page}",
            f"stepwrit approve {page} --key ~/.ssh/id_ed25519.pub",
            f"stepwrit approve {page} --print > doc",
            f"ssh-keygen -Y sign -f id -n {APPROVAL} doc",
            f"stepwrit approve {page} --signature doc.sig",
        ),
    )(approve)
    app.command(rich_help_panel=panel, epilog=examples(f"stepwrit deny {page} --reason 'not mine' --freeze"))(
        deny
    )
