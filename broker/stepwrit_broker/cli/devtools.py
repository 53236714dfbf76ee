"""`stepwrit dev …`: try a guarded tool without SPIRE and without an agent."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Final

import httpx2
import typer

from stepwrit_broker.cli.client import AdminClient, asking
from stepwrit_broker.cli.failures import REFUSED, USAGE, NoBroker, fail
from stepwrit_broker.cli.locate import DevDir, DevState, Json, dev_folder, need_dev
from stepwrit_broker.cli.output import err, examples, print_json, print_pairs

app = typer.Typer(
    help="Develop against `stepwrit broker --dev`, without SPIRE and without an agent.", no_args_is_help=True
)
DEFAULT_URL: Final = "http://127.0.0.1:8000/mcp"
IDENTITY_HELP: Final = "Which development identity, ROLE/NAME: mcp-server/ledger, agent/dev, resource/bank."


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=examples("stepwrit dev run --as mcp-server/ledger -- python server.py"),
)
def run(
    command: Annotated[list[str], typer.Argument(metavar="CMD…", help="What to run, after `--`.")],
    identity: Annotated[str, typer.Option("--as", metavar="ROLE/NAME", help=IDENTITY_HELP)],
    folder: DevDir = None,
) -> None:
    """Run a command as a development workload, with the environment that Stepwrit's SDK reads.

    Sets SPIFFE_ENDPOINT_SOCKET, STEPWRIT_BROKER and STEPWRIT_BROKER_ID. Its exit code is the command's.
    """
    given = environment(need_dev(folder), identity)
    try:
        os.execvpe(command[0], command, {**os.environ, **given})  # noqa: S606  running it is the command's point
    except FileNotFoundError:
        err().print(f"[bold red]error:[/] {command[0]}: no such command", highlight=False)
        raise typer.Exit(USAGE) from None


@app.command(epilog=examples('stepwrit dev env --as agent/dev    # then: eval "$(…)"'))
def env(
    identity: Annotated[str, typer.Option("--as", metavar="ROLE/NAME", help=IDENTITY_HELP)],
    folder: DevDir = None,
) -> None:
    """Print that environment, to be evaluated by a shell."""
    for name, value in environment(need_dev(folder), identity).items():
        typer.echo(f"export {name}={value}")


@app.command(
    name="id-token",
    epilog=examples('stepwrit dev run --as agent/dev -- python agent.py "$(stepwrit dev id-token)"'),
)
def id_token(
    person: Annotated[str, typer.Option("--as-person", metavar="NAME", help="Who signs in.")] = "dev-person",
    folder: DevDir = None,
) -> None:
    """Sign a person in and print the ID token, for an agent of your own. It starts one intent."""
    state = need_dev(folder)
    typer.echo(ask_dev(state, "mint", {"sub": person, "client_id": state.client_id})["id_token"])


@app.command(
    epilog=examples(
        "stepwrit dev call ledger transfer '{\"amount\": 5}'",
        "stepwrit dev call ledger transfer '{\"amount\": 5}' --as-person alice",
    )
)
def call(
    server: Annotated[str, typer.Argument(help="The server's name: NAME of `dev run --as mcp-server/NAME`.")],
    tool: Annotated[str, typer.Argument(help="The tool's name.")],
    args: Annotated[str, typer.Argument(metavar="JSON", help="Its arguments, an object.")] = "{}",
    url: Annotated[
        str | None,
        typer.Option(
            "--url", help=f"Where it serves MCP over HTTP. Default: as last time, at first {DEFAULT_URL}."
        ),
    ] = None,
    person: Annotated[str, typer.Option("--as-person", metavar="NAME", help="Who wants it.")] = "dev-person",
    impact: Annotated[
        str | None,
        typer.Option("--impact", metavar="low|medium|high", help="Register the tool with this impact first."),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="Wait so long for a signature, if one is needed."
        ),
    ] = 0.0,
    folder: DevDir = None,
    as_json: Json = False,
) -> None:
    """Play the person and the agent: sign in, open an intent, call the tool, show what came of it.

    A tool that the development broker does not know is registered with low impact, as its own resource.
    """
    from stepwrit_broker.cli.devcall import Wanted, play, show  # noqa: PLC0415  the MCP client is slow to import

    state = need_dev(folder)
    with asking(state.admin) as admin:
        known = _known(admin, server)
        wanted = Wanted(
            server=server,
            tool=tool,
            args=_object(args),
            url=url or known.get("url") or DEFAULT_URL,
            person=person,
            impact=impact,
            wait_s=wait,
        )
        played = asyncio.run(play(state, wanted, known))
        story = admin.get(f"/explain/{played.txn}") if played.txn else None
    if as_json:
        print_json({**played.as_json(), "story": story})
    else:
        show(played, story)
    if played.failed:
        raise typer.Exit(REFUSED)


@app.command()
def status(folder: DevDir = None, as_json: Json = False) -> None:
    """Show where the development broker is and whom it knows."""
    state = need_dev(folder)
    with asking(state.admin) as admin:
        entries = json.loads(admin.get("/registry")["doc"])["entries"]
    shown = {
        "broker": state.broker,
        "broker id": state.broker_id,
        "admin": state.admin,
        "metrics": f"{state.ops}/metrics",
        "approvals": f"{state.issuer}/approvals",
        "its CA": state.ca,
        "issuer of ID tokens": state.oidc,
        "state": str(dev_folder(folder)),
        "knows": ", ".join(f"{each['role']}/{each['name']}" for each in entries),
    }
    if as_json:
        print_json(shown)
    else:
        print_pairs(shown)


def environment(state: DevState, identity: str) -> dict[str, str]:
    """What a process needs to be this development workload. Raises CommandFailed for what is no ROLE/NAME."""
    answer = ask_dev(state, "identity", {"path": identity})
    return {
        "SPIFFE_ENDPOINT_SOCKET": answer["socket"],
        "STEPWRIT_BROKER": state.broker,
        "STEPWRIT_BROKER_ID": state.broker_id,
    }


def ask_dev(state: DevState, path: str, body: Mapping[str, object]) -> Any:
    """Ask the development issuer. Raises NoBroker, or CommandFailed with its words."""
    try:
        reply = httpx2.post(f"{state.oidc}/{path}", json=dict(body), timeout=30.0, trust_env=False)
    except httpx2.RequestError as lost:
        raise NoBroker(
            f"the development broker of {state.admin} does not answer ({type(lost).__name__}); "
            "is it still running? try `stepwrit broker --dev`"
        ) from None
    if reply.status_code >= 500:
        fail(f"the development broker could not do that ({path} {json.dumps(body)})")
    answer: Any = reply.json()
    if reply.status_code >= 400:
        fail(str(answer.get("error", f"HTTP {reply.status_code}")))
    return answer


def _known(admin: AdminClient, server: str) -> Mapping[str, Any]:
    """The server's entry in the registry in force; empty when it has none."""
    entries: list[Mapping[str, Any]] = json.loads(admin.get("/registry")["doc"])["entries"]
    return next((each for each in entries if each["role"] == "mcp-server" and each["name"] == server), {})


def _object(text: str) -> dict[str, object]:
    try:
        value: Any = json.loads(text)
    except ValueError as bad:
        raise typer.BadParameter(f"the arguments are not JSON: {bad}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("the arguments are a JSON object, such as '{\"amount\": 5}'")
    return value
