"""`approvals verify`: every approval of a log, from the asking to the use, without a broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from stepwrit_broker.approvals.audit import Audit, Audited, Documents, Verdict
from stepwrit_broker.cli.failures import REFUSED, fail
from stepwrit_broker.cli.ledgers import anchor_of, usual_anchor, verify_at
from stepwrit_broker.cli.locate import Json, config_of
from stepwrit_broker.cli.offline import Database, Dsn, Key, named, place, public_key
from stepwrit_broker.cli.output import NO, YES, harmless, out, print_json, say, when
from stepwrit_broker.ledger.documents import DocumentFiles
from stepwrit_broker.ledger.exported import entries_in
from stepwrit_broker.ledger.report import Report
from stepwrit_broker.ledger.source import Entry
from stepwrit_broker.ledger.verify import verify_export_file
from stepwrit_broker.ledger.view import LogView, logged
from stepwrit_broker.ledger.where import open_source
from stepwrit_broker.ports import LoggedEntry

_SIGNS: Final[dict[Verdict, tuple[str, str]]] = {
    "holds": (YES, "green"),
    "fails": (NO, "bold red"),
    "unknown": ("?", "yellow"),
}
_WORDS: Final[dict[Verdict, str]] = {
    "holds": "holds",
    "fails": "DOES NOT HOLD",
    "unknown": "holds, as far as it can be verified",
}

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--documents",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="What lies beside an exported log: `stepwrit ledger export … --documents FILE`.",
    ),
]


def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[APPROVAL]", help="One of them: its id, or its ref.")
    ] = None,
    db: Database = None,
    dsn: Dsn = None,
    export: Annotated[
        list[Path] | None,
        typer.Option(
            "--export", metavar="FILE", exists=True, dir_okay=False, help="An export, instead of a database."
        ),
    ] = None,
    documents: Files = None,
    key: Key = None,
    issuer: Annotated[
        str | None,
        typer.Option(
            "--issuer",
            metavar="URL",
            help="The broker's URL, on whose page persons sign. Default: that of broker.toml; without either "
            "it is taken from the evidence and told.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify approvals offline: what was asked, who signed it with what, that it was given, and used once.

    First the log itself, as `stepwrit ledger verify` does; then each signature, with public keys alone. Exit
    code 1 on any fault. What was erased is told as not verifiable, and is no fault.
    """
    vkey, exports = public_key(key), sorted(export or ())
    issuer = issuer or _issuer()
    if exports:
        _check_whole([(str(each), verify_export_file(each, vkey)) for each in exports])
        spans = sorted((_first(each), each) for each in exports)
        entries: Iterable[Entry] = chain.from_iterable(entries_in(path) for _, path in spans)
        files = DocumentFiles(tuple(documents or ()))
        found = _audited(map(logged, entries), files, issuer, is_whole=_is_whole(spans))
    else:
        where, anchor = place(db, dsn), anchor_of(usual_anchor(db) if dsn is None else None)
        _check_whole([(named(where), verify_at(where, vkey, anchor=anchor))])
        with closing(LogView(open_source(where))) as view:
            found = _audited(_known(view), view, issuer, is_whole=True)
    found = [each for each in found if name in (None, each.approval, each.ref)]
    if name is not None and not found:
        fail(f"no approval {name} in this log")
    _tell(found, issuer, as_json=as_json)


def _issuer() -> str | None:
    config = config_of(None)
    return None if config is None else config.issuer


def _first(path: Path) -> int:
    return next(iter(entries_in(path))).seq


def _is_whole(spans: Sequence[tuple[int, Path]]) -> bool:
    """Whether the exports are the log from its first entry on, without a gap."""
    expected = 0
    for first, path in spans:
        if first != expected:
            return False
        expected += sum(1 for _ in entries_in(path))
    return True


def _known(view: LogView) -> Iterator[LoggedEntry]:
    sealed = 0
    for each in view.every():
        sealed += each.facts is None
        yield each
    if sealed:
        say(f"{sealed} entries are in exports only: give those with --export to verify their approvals")


def _audited(
    entries: Iterable[LoggedEntry], documents: Documents, issuer: str | None, *, is_whole: bool
) -> list[Audited]:
    return Audit(documents, issuer=issuer, is_whole=is_whole).run(entries)


def _check_whole(reports: Sequence[tuple[str, Report]]) -> None:
    for name, report in reports:
        if not report.ok:
            for line in report.lines()[1:]:
                say(f"  {NO} {line}", style="red")
            fail(f"{name} is not whole: nothing in it is evidence (stepwrit ledger verify says more)")


def _tell(found: Sequence[Audited], issuer: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json([_as_json(each) for each in found])
    else:
        for each in found:
            _one(each)
        _sum(found, issuer)
    if any(each.verdict == "fails" for each in found):
        raise typer.Exit(REFUSED)


def _one(each: Audited) -> None:
    sign, style = _SIGNS[each.verdict]
    line = Text(f"{sign} {_WORDS[each.verdict]}", style=style)
    line.append(f"  {harmless(each.tool)}, {each.state}", style="bold")
    line.append(f"\n  {each.approval}   ref {each.ref}   {when(each.at)}", style="dim")
    for finding in each.findings:
        mark, colour = _SIGNS[finding.verdict]
        line.append(f"\n  {mark} entry {finding.seq}: {harmless(finding.what)}", style=colour)
    out().print(line, soft_wrap=True)


def _sum(found: Sequence[Audited], issuer: str | None) -> None:
    counts = {verdict: sum(each.verdict == verdict for each in found) for verdict in _SIGNS}
    say(
        f"{len(found)} approvals: {counts['holds']} hold, {counts['unknown']} hold as far as they can be "
        f"verified, {counts['fails']} do not"
    )
    if issuer is None:
        say("no --issuer was given: on whose page they were signed was taken from the evidence", style="dim")


def _as_json(each: Audited) -> dict[str, object]:
    return {
        "approval": each.approval,
        "verdict": each.verdict,
        "state": each.state,
        "tool": each.tool,
        "txn": each.txn,
        "step": each.step,
        "ref": each.ref,
        "digest": each.digest,
        "asked_at": each.at,
        "signed": each.signed,
        "findings": [{"verdict": f.verdict, "seq": f.seq, "what": f.what} for f in each.findings],
    }
