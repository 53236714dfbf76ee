"""`stepwrit store …`: backup while serving; check and adopt without a broker."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from stepwrit_broker.cli.client import asking
from stepwrit_broker.cli.failures import REFUSED, fail
from stepwrit_broker.cli.locate import At, Json, Reason
from stepwrit_broker.cli.offline import Database, Dsn, database, local_files, place
from stepwrit_broker.cli.output import NO, YES, examples, out, print_json, say
from stepwrit_broker.clock import SystemClock, SystemEntropy
from stepwrit_broker.core import ids
from stepwrit_broker.core.merkle import root_at
from stepwrit_broker.ledger import keys
from stepwrit_broker.ledger.adoption import adopt as adopt_log
from stepwrit_broker.ledger.anchor import (
    Anchor,
    AnchorFile,
    AnchorHolds,
    AnchorMismatch,
    AnchorMissing,
    AnchorVerdict,
    DatabaseOlder,
    Reached,
)
from stepwrit_broker.ledger.anchor import (
    check as check_anchor,
)
from stepwrit_broker.ledger.checkpoint import Checkpointer
from stepwrit_broker.ledger.exported import open_by_key
from stepwrit_broker.ledger.notes import NoteSigner
from stepwrit_broker.ledger.schema import node_getter
from stepwrit_broker.ledger.sqlite_log import SqliteLog
from stepwrit_broker.ledger.where import open_source
from stepwrit_broker.store.schema import FileLock, connect
from stepwrit_broker.store.schema import check as check_file

app = typer.Typer(help="The broker's database: backup, check, adopt.", no_args_is_help=True)
LOST: Final = "--yes-i-lost-entries"


@app.command(epilog=examples("stepwrit store backup /var/backups/stepwrit/2026-11-23.db"))
def backup(
    file: Annotated[Path, typer.Argument(help="A new file on the broker's machine.")],
    at: At = None,
    as_json: Json = False,
) -> None:
    """Write a consistent copy of the database while the broker serves."""
    with asking(at) as admin:
        said = admin.post("/store/backup", {"path": str(file.absolute())})
    if as_json:
        print_json(said)
        return
    say(f"wrote {said['path']}")
    say("a broker that starts from it will ask to be adopted: what happened since the copy is not in it")


@app.command(epilog=examples("stepwrit store check /var/lib/stepwrit/stepwrit.db"))
def check(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A database or a backup.")],
    as_json: Json = False,
) -> None:
    """Check that a database file is whole, as SQLite sees it; `ledger verify` checks what it says."""
    found = check_file(file)
    if as_json:
        print_json({"file": str(file), "ok": not found, "findings": found})
    elif found:
        out().print(f"[bold red]{NO} damaged[/]", end="")
        say(f"  {file}")
        for line in found:
            say(f"  {line}")
    else:
        out().print(f"[bold green]{YES} whole[/]", end="")
        say(f"  {file}")
    if found:
        raise typer.Exit(REFUSED)


@app.command(epilog=examples(f"stepwrit store adopt --reason 'disk lost, restored from the 23rd' {LOST}"))
def adopt(
    reason: Reason,
    db: Database = None,
    dsn: Dsn = None,
    anchor: Annotated[
        Path | None,
        typer.Option("--anchor", metavar="FILE", help="Its anchor. Default: as broker.toml says."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", exists=True, help="The log's private key. Default: as broker.toml says."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="What a witness has seen (`stepwrit witness show --log`), if that is more than the anchor.",
        ),
    ] = None,
    is_sure: Annotated[
        bool, typer.Option(LOST, help="Do it. Without this, it only says what would be given up.")
    ] = False,
) -> None:
    """Go on with a database that its anchor has outrun: one that was restored, or that lost entries.

    The broker, or every broker of a fleet, must be stopped. The log goes on under a new name that commits to
    the old head, so nobody can later pretend that nothing was lost. Revocations and uses made since the copy
    are lost: revoke again.
    """
    files = local_files()
    at, signer = anchor or (files.anchor if files else None), key or (files.key if files else None)
    if at is None or signer is None:
        fail("say --anchor FILE and --key FILE (there is no broker.toml here to name them)")
    held, signing = AnchorFile(at), keys.load(signer)
    lost = held.read()
    if checkpoint is not None:
        lost = _seen(checkpoint.read_text(encoding="utf-8"), signing, lost)
    if dsn is not None:
        from stepwrit_broker.cli.stores_fleet import adopt_fleet, reached  # noqa: PLC0415  a driver, slow

        with closing(open_source(place(db, dsn))) as source:
            is_wanted = _is_wanted(reached(source), lost, is_sure=is_sure)
        if is_wanted:
            adopt_fleet(dsn, signing, held, lost, reason)
        return
    with _held(database(db)) as (conn, log):
        found = Reached(
            origin=log.origin, size=log.size, root_at=lambda size: root_at(size, node_getter(conn))
        )
        if _is_wanted(found, lost, is_sure=is_sure):
            _adopt(conn, log, signing, held, lost, reason)


def _is_wanted(found: Reached, lost: Anchor | None, *, is_sure: bool) -> bool:
    """Whether there is something to adopt, told in either case. Fails while the operator is not sure."""
    verdict = check_anchor(found, lost)
    if isinstance(verdict, AnchorHolds):
        say(f"nothing to adopt: the database goes on from its anchor ({found.size} entries)")
        return False
    say(_meaning(verdict))
    if not is_sure:
        fail(f"nothing was changed; to go on with what is here, say {LOST}")
    return True


def _seen(note: str, key: NoteSigner, anchor: Anchor | None) -> Anchor | None:
    """What the log had reached by this checkpoint of its own key, or by the anchor where that is more."""
    seen = open_by_key(note, key.verifier)
    if anchor is not None and anchor.size > seen.size:
        return anchor
    epoch, high = ("", 0.0) if anchor is None else (anchor.epoch, anchor.high_water)
    return Anchor(origin=seen.origin, epoch=epoch, size=seen.size, root=seen.root, high_water=high, note=note)


@contextmanager
def _held(path: Path) -> Generator[tuple[sqlite3.Connection, SqliteLog]]:
    """The database, to ourselves. Raises Unavailable while a broker has it."""
    lock = FileLock(path.resolve())
    try:
        with closing(connect(path.resolve())) as conn:
            log = SqliteLog()
            log.load(conn)
            yield conn, log
    finally:
        lock.release()


def _meaning(verdict: AnchorVerdict) -> str:
    match verdict:
        case DatabaseOlder(anchor=anchor, size=size):
            lost = anchor.size - size
            return f"the anchor has seen {anchor.size} entries, the database has {size}: {lost} are lost"
        case AnchorMissing(size=size):
            return f"the database has {size} entries and no anchor: nobody knows how many there were"
        case AnchorMismatch(reason=reason):
            return f"the database and the anchor tell different stories: {reason}"
        case AnchorHolds():
            return "the database goes on from its anchor"


def _adopt(
    conn: sqlite3.Connection,
    log: SqliteLog,
    key: NoteSigner,
    held: AnchorFile,
    lost: Anchor | None,
    reason: str,
) -> None:
    entropy, now = SystemEntropy(), SystemClock().now()
    epoch, ref = entropy.bytes(16).hex(), ids.make_ref(entropy.bytes(ids.REF_BYTES))
    high = max(now, lost.high_water if lost is not None else now)
    conn.execute("BEGIN IMMEDIATE")
    done = adopt_log(conn, log, base=key.name, epoch=epoch, lost=lost, reason=reason, ref=ref, at=now)
    log.seal(conn)
    conn.execute("COMMIT")
    log.committed()
    held.put(Anchor(origin=done.new_origin, epoch=epoch, size=log.size, root=log.root, high_water=high))
    Checkpointer(key, held).sign(conn, log, epoch=epoch, high_water=high, at=now)
    say(f"adopted: the log goes on as {done.new_origin}, {log.size} entries   ref {ref}")
    say(f"its key under that name, for witnesses:\n{key.under(done.new_origin).verifier.vkey}")
    say("now revoke and freeze again what was revoked or frozen since the copy, then start the broker")
