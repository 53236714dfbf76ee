"""`stepwrit ledger …`: verify without a broker, prove, export, seal."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from stepwrit_broker.cli.client import asking
from stepwrit_broker.cli.failures import REFUSED
from stepwrit_broker.cli.locate import At, Json, Reason
from stepwrit_broker.cli.offline import Database, Dsn, Key, local_files, named, place, public_key
from stepwrit_broker.cli.output import NO, YES, examples, out, print_json, print_pairs, say
from stepwrit_broker.cli.proofs import (
    EntryFile,
    Kept,
    Proof,
    Quorum,
    Witnesses,
    prove,
    verify_proof_file,
    witness_keys,
)
from stepwrit_broker.core.merkle import parse_checkpoint, verify_inclusion
from stepwrit_broker.ledger import keys
from stepwrit_broker.ledger.anchor import Anchor, AnchorFile
from stepwrit_broker.ledger.documents import export_documents
from stepwrit_broker.ledger.elsewhere import NOWHERE, Elsewhere
from stepwrit_broker.ledger.export import dropped_below, export_range
from stepwrit_broker.ledger.exported import open_by_key
from stepwrit_broker.ledger.notes import parse_vkey
from stepwrit_broker.ledger.parquet import write_parquet
from stepwrit_broker.ledger.reader import LogReader
from stepwrit_broker.ledger.report import Report, Span
from stepwrit_broker.ledger.verify import verify_database, verify_export_file, verify_log
from stepwrit_broker.ledger.where import is_dsn, open_source

app = typer.Typer(
    help="The append-only record of every hop: verify, prove, export, seal.", no_args_is_help=True
)


@app.command(
    epilog=examples(
        "stepwrit ledger verify --db stepwrit.db --key log.vkey --anchor log.anchor",
        "stepwrit ledger verify --export 2026-10.jsonl --export 2026-11.jsonl",
        "stepwrit ledger verify --db stepwrit.db --key log.vkey --witness witness.vkey --checkpoint head.txt",
        "stepwrit ledger verify --database postgresql://reader@db/stepwrit --key log.vkey --anchor a.json",
        "stepwrit ledger verify --proof entry-1041.json.tlog-proof --key log.vkey --witness witness.vkey",
    )
)
def verify(
    db: Database = None,
    dsn: Dsn = None,
    export: Annotated[
        list[Path] | None,
        typer.Option(
            "--export",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="An export; with --db, what it no longer holds.",
        ),
    ] = None,
    key: Key = None,
    anchor: Annotated[
        Path | None,
        typer.Option(
            "--anchor",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The anchor, which shows a log that was cut off.",
        ),
    ] = None,
    proof: Proof = None,
    entry: EntryFile = None,
    witness: Witnesses = None,
    quorum: Quorum = None,
    checkpoint: Kept = None,
    as_json: Json = False,
) -> None:
    """Check every entry, hash and signature, offline. Exit code 1 on any finding.

    No broker is asked and nothing in the file is believed: each leaf is hashed again, and only checkpoints
    that the given key signed count. With --proof, one entry only, from two files.
    """
    if proof is not None:
        verify_proof_file(proof, entry, public_key(key), witness_keys(witness), quorum, as_json=as_json)
        return
    vkey, exports = public_key(key), tuple(export or ())
    if db is None and dsn is None and exports:
        held = None if anchor is None else anchor_of(anchor)
        reports = {str(path): verify_export_file(path, vkey, anchor=held) for path in exports}
    else:
        # the anchor first: the log may grow
        held, where = anchor_of(anchor or (usual_anchor(db) if dsn is None else None)), place(db, dsn)
        kept = tuple(each.read_text(encoding="utf-8") for each in checkpoint or ())
        elsewhere = Elsewhere(checkpoints=kept, witnesses=witness_keys(witness), quorum=quorum)
        reports = {named(where): verify_at(where, vkey, exports, held, elsewhere)}
    if as_json:
        print_json({path: _as_json(report) for path, report in reports.items()})
    else:
        for name, report in reports.items():
            _verdict(name, report)
    if not all(report.ok for report in reports.values()):
        raise typer.Exit(REFUSED)


def verify_at(
    where: str,
    vkey: str,
    exports: tuple[Path, ...] = (),
    anchor: Anchor | None = None,
    elsewhere: Elsewhere = NOWHERE,
) -> Report:
    """The report on a file or a fleet's database."""
    if not is_dsn(where):
        return verify_database(Path(where), vkey, exports=exports, anchor=anchor, elsewhere=elsewhere)
    opened = partial(open_source, where)
    return verify_log(opened, named(where), vkey, exports=exports, anchor=anchor, elsewhere=elsewhere)


def usual_anchor(db: Path | None) -> Path | None:
    """The anchor beside the database that nobody named."""
    files = local_files() if db is None else None
    return files.anchor if files else None


def anchor_of(path: Path | None) -> Anchor | None:
    """Read it; None where there is none."""
    return None if path is None else AnchorFile(path).read()


def _verdict(path: str, report: Report) -> None:
    if report.ok:
        word = "whole, as far as it was checked" if report.not_checked else "whole"
        out().print(f"[bold green]{YES} {word}[/]", end="")
    else:
        out().print(f"[bold red]{NO} NOT WHOLE[/]", end="")
    say(f"  {path}: {report.size} entries of {report.origin}")
    for line in report.lines()[1:]:
        is_finding = any(line.startswith(finding.kind) for finding in report.findings)
        say(f"  {NO + ' ' if is_finding else ''}{line}", style="red" if is_finding else "dim")


def _as_json(report: Report) -> Mapping[str, object]:
    return {
        "ok": report.ok,
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "signed_size": report.signed_size,
        "signed_at": report.signed_at,
        "unsigned_tail": report.unsigned_tail,
        "findings": [{"kind": f.kind, "seq": f.seq, "detail": f.detail} for f in report.findings],
        "renamed": [each._asdict() for each in report.renamed],
        "only_in_exports": [each._asdict() for each in report.only_in_exports],
        "not_checked": [each._asdict() for each in report.not_checked],
        "cannot_exclude": report.cannot_exclude,
        "cosigned": [each._asdict() for each in report.cosigned],
    }


@app.command(epilog=examples("stepwrit ledger head > head.txt    # keep it elsewhere: it is a witness"))
def head(at: At = None, as_json: Json = False) -> None:
    """Sign what is committed now and print the checkpoint (a signed note)."""
    with asking(at) as admin:
        said = admin.get("/ledger/head")
    if as_json:
        print_json(said)
    else:
        typer.echo(said["checkpoint"], nl=False)


@app.command(epilog=examples("stepwrit ledger proof 1041"))
def proof(
    seq: Annotated[int, typer.Argument(min=0, help="The entry's number.")],
    at: At = None,
    as_json: Json = False,
) -> None:
    """Prove that an entry is in the signed log, and check the proof here (RFC 9162 section 2.1.3)."""
    with asking(at) as admin:
        said = admin.get(f"/ledger/proof/{seq}")
        vkey = admin.get("/status").get("vkey")
    _check_proof(said, vkey)
    if as_json:
        print_json(said)
        return
    out().print(f"[bold green]{YES} proved[/]", end="")
    say(f"  entry {seq} is in the log of {said['size']} entries")
    print_pairs(
        {
            "leaf": said["leaf"],
            "root": said["root"],
            "path": f"{len(said['path'])} hashes (--json shows them)",
        }
    )
    typer.echo("\n" + said["checkpoint"], nl=False)


def _check_proof(said: Mapping[str, Any], vkey: str | None) -> None:
    """Raises Problem for a proof that does not hold."""
    note: str = said["checkpoint"]
    signed = (
        parse_checkpoint(note.rpartition("\n\n")[0] + "\n")
        if vkey is None
        else open_by_key(note, parse_vkey(vkey))
    )
    path = [bytes.fromhex(each) for each in said["path"]]
    verify_inclusion(
        leaf=bytes.fromhex(said["leaf"]), index=said["seq"], size=signed.size, path=path, root=signed.root
    )


app.command(epilog=examples("stepwrit ledger prove 7Q2K9MZX4D --into evidence"))(prove)


@app.command(
    epilog=examples(
        "stepwrit ledger export 2026-11.jsonl", "stepwrit ledger export part.jsonl --first 100 --upto 200"
    )
)
def export(
    file: Annotated[Path, typer.Argument(help="A new file.")],
    db: Database = None,
    dsn: Dsn = None,
    key: Key = None,
    first: Annotated[
        int | None, typer.Option("--first", min=0, help="First entry. Default: the oldest here.")
    ] = None,
    upto: Annotated[
        int | None,
        typer.Option("--upto", min=1, help="The entry after the last. Default: all that is signed."),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            "--documents",
            metavar="FILE",
            help="A second new file: what approvals signed, and their ID tokens, for "
            "`stepwrit approvals verify`. It names persons.",
        ),
    ] = None,
) -> None:
    """Write a range of the log to a file that proves itself. Reads the database; nothing changes in it."""
    verifier = parse_vkey(public_key(key))
    with closing(open_source(place(db, dsn))) as source:
        newest = LogReader(source).newest_checkpoint()
        signed = open_by_key(newest, verifier).size if newest else 0
        span = Span(dropped_below(source) if first is None else first, signed if upto is None else upto)
        export_range(source, span, file.absolute(), verifier)
        count = None if documents is None else export_documents(source, span, documents.absolute())
    say(f"wrote {file}: entries {span.first} to {span.upto - 1}")
    if count is not None:
        say(f"wrote {documents}: {count} documents of approvals; they name persons")
    say(f"anyone can check it: stepwrit ledger verify --export {file} --key {verifier.vkey}")


@app.command(
    epilog=examples(
        "stepwrit ledger seal /var/backups/stepwrit/2026-11.jsonl",
        "stepwrit ledger seal --before 2026-11 /var/backups/stepwrit/2026-10.jsonl    # each month",
    )
)
def seal(
    file: Annotated[Path, typer.Argument(help="A new file on the broker's machine.")],
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="YYYY-MM", help="Only what is older than this month (UTC)."),
    ] = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Export what is signed and drop its bodies from the database. Hashes stay, so proofs still work."""
    with asking(at) as admin:
        said = admin.post("/ledger/seal", {"path": str(file.absolute()), "before": before})
    if as_json:
        print_json(said)
    else:
        say(f"sealed up to entry {said['upto'] - 1} into {said['path']}   ref {said['ref']}")
        say("keep that file: the bodies of these entries are nowhere else now")


@app.command(epilog=examples("stepwrit ledger parquet 2026-10.jsonl 2026-10.parquet --key log.vkey"))
def parquet(
    export: Annotated[
        Path, typer.Argument(metavar="EXPORT", exists=True, dir_okay=False, help="JSON lines.")
    ],
    file: Annotated[Path, typer.Argument(help="A new file.")],
    key: Key = None,
) -> None:
    """Write an export as Parquet, with typed columns, once it has been verified. Needs stepwrit[parquet].

    Each row keeps the entry's bytes and leaf hash. The JSON lines stay the evidence: keep them.
    """
    rows = write_parquet(export, file.absolute(), parse_vkey(public_key(key)))
    say(f"wrote {file}: {rows} entries")


@app.command(epilog=examples("stepwrit ledger erase txn_100K7Z3P4V6W… --reason 'request 4711, Art. 17'"))
def erase(
    name: Annotated[str, typer.Argument(metavar="TXN|REF", help="A transaction, or a ref outside any.")],
    reason: Reason,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Forget what a transaction's digests stand for: its salt and documents. The tree and its proofs stay.

    Only after it has ended, and for ever. Entries still say who called which tool, and when. Backups and
    exports of documents that hold it are yours to erase.
    """
    with asking(at) as admin:
        said = admin.post("/ledger/erase", {"name": name, "reason": reason})
    if as_json:
        print_json(said)
    else:
        say(f"erased the salt and {said['documents']} documents of {said['name']}   ref {said['ref']}")
        say("they may still be in backups and in exports of documents")


@app.command(
    epilog=examples(
        "stepwrit ledger key > log.vkey", "stepwrit ledger key --file /var/lib/stepwrit/ledger.key"
    )
)
def key(
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The private key's file, without a broker.",
        ),
    ] = None,
    at: At = None,
) -> None:
    """Print the log's public key, which verifiers need."""
    if file is not None:
        typer.echo(keys.load(file).verifier.vkey)
        return
    with asking(at) as admin:
        typer.echo(admin.get("/status")["vkey"])
