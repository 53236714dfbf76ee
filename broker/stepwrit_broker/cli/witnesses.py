"""`stepwrit witness …`: cosign the checkpoints of somebody else's log, on a machine of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from stepwrit_broker.cli.failures import fail
from stepwrit_broker.cli.locate import Json
from stepwrit_broker.cli.output import examples, print_json, say, when
from stepwrit_broker.config_witness import load_witness_config
from stepwrit_broker.ledger import keys
from stepwrit_broker.ledger.notes import parse_vkey
from stepwrit_broker.ledger.witness.state import create_state, read_state

app = typer.Typer(
    help="Run a witness: it cosigns a log's checkpoints, so that a log that was cut off or forked is found.",
    no_args_is_help=True,
)
Config = Annotated[
    Path,
    typer.Option("--config", metavar="FILE", exists=True, dir_okay=False, help="Its settings, witness.toml."),
]


@app.command(
    epilog=examples(
        "stepwrit witness init /var/lib/witness --name witness.example/w1 --log broker.example+e440e89e+Acz8…"
    )
)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where its files go.")],
    name: Annotated[
        str, typer.Option("--name", help="Its name in cosignatures, such as witness.example/w1.")
    ],
    log: Annotated[
        list[str],
        typer.Option("--log", metavar="VKEY|FILE", help="A log's public key (`stepwrit ledger key`)."),
    ],
) -> None:
    """Make a witness's key and settings. Nothing that exists is replaced."""
    vkeys = [parse_vkey(_text(each)).vkey for each in log]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = folder / "witness.toml"
    if settings.exists():
        fail(f"{settings} exists already")
    create_state(folder / "witness.json")
    signer = keys.create_witness(folder / "witness.key", name=name, seed=os.urandom(32))
    lines = [f"name = {json.dumps(name)}", *(f"\n[[log]]\nvkey = {json.dumps(each)}" for each in vkeys)]
    settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
    say(f"wrote {settings} and {folder / 'witness.key'}")
    say(f"its public key, for the broker and for whoever verifies:\n{signer.verifier.vkey}")
    say(f"run it: stepwrit witness run --config {settings}")


@app.command(epilog=examples("stepwrit witness run --config /var/lib/witness/witness.toml"))
def run(config: Config) -> None:
    """Serve until told to stop. It keeps what it cosigned in a file that must never be set back."""
    import asyncio  # noqa: PLC0415  listeners are slow to import

    from stepwrit_broker.wiring.witness import serve_witness  # noqa: PLC0415

    asyncio.run(serve_witness(load_witness_config(config)))


@app.command(epilog=examples("stepwrit witness key --config witness.toml > witness.vkey"))
def key(config: Config) -> None:
    """Print the witness's public key, which the broker and verifiers need."""
    typer.echo(keys.load_witness(load_witness_config(config).key_file).verifier.vkey)


@app.command(epilog=examples("stepwrit witness show --config witness.toml --log broker.example > head.txt"))
def show(
    config: Config,
    log: Annotated[
        str | None, typer.Option("--log", metavar="ORIGIN", help="One log: its checkpoint.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What was cosigned last of each log; with --log the checkpoint, for `ledger verify --checkpoint`."""
    path = load_witness_config(config).state_file
    logs = read_state(path)
    if log is not None:
        if log not in logs:
            fail(f"nothing of {log} was cosigned")
        typer.echo(logs[log].note, nl=False)
    elif as_json:
        print_json({o: {"size": e.checkpoint.size, "at": e.at, "note": e.note} for o, e in logs.items()})
    else:
        if not logs:
            say("nothing was cosigned yet")
        for origin, each in logs.items():
            say(f"{origin}  size {each.checkpoint.size}  {when(each.at)}")


def _text(given: str) -> str:
    return Path(given).read_text(encoding="utf-8").strip() if Path(given).is_file() else given
