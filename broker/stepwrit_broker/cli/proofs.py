"""`stepwrit ledger prove` and `verify --proof`: one entry as evidence, in two files that need nobody else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Final

import typer

from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.client import asking
from stepwrit_broker.cli.locate import At, Json
from stepwrit_broker.cli.output import YES, out, print_json, say, when
from stepwrit_broker.core.tlog import PROOF_SUFFIX
from stepwrit_broker.ledger.cosignature import CosignatureVerifier, parse_witness_vkey
from stepwrit_broker.ledger.notes import parse_vkey
from stepwrit_broker.ledger.proofs import MAX_PROOF_BYTES, Proved, verify_proof

MAX_ENTRY_BYTES: Final = 65_535

Proof = Annotated[
    Path | None,
    typer.Option(
        "--proof",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="A proof of `stepwrit ledger prove` (c2sp.org/tlog-proof@v1), instead of a database.",
    ),
]
EntryFile = Annotated[
    Path | None,
    typer.Option(
        "--entry",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="With --proof: the entry. Default: the proof's name without .tlog-proof.",
    ),
]
Witnesses = Annotated[
    list[str] | None,
    typer.Option(
        "--witness",
        metavar="VKEY|FILE",
        help="A witness's public key: its cosignatures are checked. As often as needed.",
    ),
]
Quorum = Annotated[
    int | None,
    typer.Option("--quorum", min=1, help="How many of the witnesses must have cosigned. Default: all."),
]


Kept = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="A checkpoint kept elsewhere (`stepwrit witness show --log`, `ledger head`): shows a log that "
        "was cut off or rewritten since. With --witness it must be cosigned.",
    ),
]


def witness_keys(given: list[str] | None) -> tuple[CosignatureVerifier, ...]:
    """The keys in options or files. Raises Problem for what is no witness's key."""
    texts = (Path(each).read_text(encoding="utf-8") if Path(each).is_file() else each for each in given or ())
    return tuple(parse_witness_vkey(text.strip()) for text in texts)


def prove(
    name: Annotated[str, typer.Argument(metavar="REF|NUMBER", help="A ref, or an entry's number.")],
    into: Annotated[
        Path, typer.Option("--into", metavar="DIR", help="Where the files go. Default: here.")
    ] = Path(),
    at: At = None,
    as_json: Json = False,
) -> None:
    """Write an entry and the proof that it is in the signed log, as files that anyone can check offline.

    entry-N.json holds the entry's exact bytes, entry-N.json.tlog-proof the proof, with the cosignatures of
    witnesses where there are. What the entry says can be read by whoever gets it.
    """
    with asking(at) as admin:
        found = admin.get(f"/ledger/prove/{name}")
        vkey = admin.get("/status")["vkey"]
    into.mkdir(parents=True, exist_ok=True)
    made = [_write(into, each["seq"], base64.b64decode(each["body"]), each["proof"]) for each in found]
    for proof, entry in made:
        verify_proof(proof.read_text(encoding="utf-8"), entry.read_bytes(), parse_vkey(vkey))
    if as_json:
        print_json([{"proof": str(proof), "entry": str(entry)} for proof, entry in made])
        return
    for proof, entry in made:
        say(f"wrote {entry} and {proof}")
        say(f"anyone can check it: stepwrit ledger verify --proof {proof} --key {vkey}")


def _write(into: Path, seq: int, body: bytes, proof: str) -> tuple[Path, Path]:
    entry = into / f"entry-{seq}.json"
    shown = entry.with_name(entry.name + PROOF_SUFFIX)
    entry.write_bytes(body)
    shown.write_text(proof, encoding="utf-8")
    return shown, entry


def verify_proof_file(
    proof: Path,
    entry: Path | None,
    vkey: str,
    witnesses: tuple[CosignatureVerifier, ...],
    quorum: int | None,
    *,
    as_json: bool,
) -> None:
    """Print what a proof shows. Raises Problem when it does not hold."""
    found = entry or proof.with_name(proof.name.removesuffix(PROOF_SUFFIX))
    if found == proof or not found.is_file():
        raise ConfigurationError("say which entry the proof is about: --entry FILE")
    proved = verify_proof(
        _read(proof, MAX_PROOF_BYTES).decode("utf-8", "replace"),
        _read(found, MAX_ENTRY_BYTES),
        parse_vkey(vkey),
        witnesses=witnesses,
        quorum=quorum,
    )
    _show(found, proved, as_json=as_json)


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most + 1)


def _show(entry: Path, proved: Proved, *, as_json: bool) -> None:
    head = proved.checkpoint
    if as_json:
        cosigned = [{"name": each.by.name, "at": each.at} for each in proved.cosigned]
        told = {"ok": True, "seq": proved.index, "origin": head.origin, "size": head.size}
        print_json({**told, "root": head.root.hex(), "cosigned": cosigned})
        return
    out().print(f"[bold green]{YES} proved[/]", end="")
    say(f"  {entry}: entry {proved.index} of {head.origin}, in the log of {head.size} entries")
    for each in proved.cosigned:
        say(f"  cosigned by {each.by.name}, {when(each.at)}", style="dim")
    if not proved.cosigned:
        say("  signed by the log alone: no witness's key was given (--witness)", style="dim")
