"""`registry`, `limits`, `policy` and `apply`: what the operator set, as versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from stepwrit_broker.cli.client import AdminClient, asking
from stepwrit_broker.cli.failures import fail
from stepwrit_broker.cli.locate import At, ConfigFile, Json, Reason, config_of
from stepwrit_broker.cli.output import examples, out, print_json, print_table, say, when
from stepwrit_broker.cli.showing import as_file, files_of, summary
from stepwrit_broker.core.versions import VersionKind

_WHAT: Final[Mapping[VersionKind, str]] = {
    "registry": "Who is what, who may start what, who redeems.",
    "limits": "Bounds on issuance: rates, concurrency, counts, lives.",
    "policy": "The Cedar policies that decide.",
}
_FILES: Final[Mapping[VersionKind, str]] = {
    "registry": "registry.yaml",
    "limits": "limits.yaml",
    "policy": "policy/",
}
Document = Annotated[
    Path,
    typer.Argument(exists=True, metavar="FILE", help="The YAML file; of a policy, the folder of *.cedar."),
]
AcceptImpact = Annotated[
    bool,
    typer.Option(
        "--accept-impact",
        help="A policy: put it in force without a recent impact report, where broker.toml demands one.",
    ),
]
KINDS: Final[tuple[VersionKind, ...]] = ("registry", "limits", "policy")


def group(kind: VersionKind) -> typer.Typer:
    """The commands that all three documents have."""
    app = typer.Typer(help=_WHAT[kind], no_args_is_help=True)
    file = _FILES[kind]
    _show(app, kind)
    _history(app, kind)
    _apply(app, kind, file)
    _undo(app, kind)
    _export(app, kind, file)
    return app


def _show(app: typer.Typer, kind: VersionKind) -> None:
    @app.command(help=f"Show the {kind} in force.")
    def show(at: At = None, as_json: Json = False) -> None:
        with asking(at) as admin:
            version = admin.get(f"/{kind}")
        if as_json:
            print_json(version)
            return
        say(f"{kind} v{version['version']}, {when(version['at'])}, by {version['by']}: {version['reason']}")
        out().print()
        summary(kind, json.loads(version["doc"]))


def _history(app: typer.Typer, kind: VersionKind) -> None:
    @app.command(help=f"List all versions of the {kind}, oldest first.")
    def history(at: At = None, as_json: Json = False) -> None:
        with asking(at) as admin:
            versions = admin.get(f"/{kind}/history")
        if as_json:
            print_json(versions)
            return
        heads = ("version", "since", "by", "source", "reason", "impact")
        rows = [
            (v["version"], when(v["at"]), v["by"], v["source"], v["reason"], _impact(v)) for v in versions
        ]
        shown = len(heads) if kind == "policy" else -1
        print_table(heads[:shown], [row[:shown] for row in rows], empty=f"no {kind} yet")


def _impact(version: Mapping[str, Any]) -> str | None:
    """What was known of it when it was put in force; None where nobody looked."""
    known = version["impact"]
    if known is None:
        return None
    if "accepted" in known:
        return f"accepted: {known['accepted']}"
    told = ", ".join(f"{count} {effect}" for effect, count in known["effects"].items()) or "no change"
    return f"{told} of {known['asked']} (ref {known['ref']})"


def _apply(app: typer.Typer, kind: VersionKind, file: str) -> None:
    @app.command(
        help=f"Put {file} in force as a new version. All of it is good, or nothing changes.",
        epilog=examples(f"stepwrit {kind} apply {file} --reason 'new ledger server'"),
    )
    def apply(
        file: Document,
        reason: Reason,
        accept_impact: AcceptImpact = False,
        at: At = None,
        as_json: Json = False,
    ) -> None:
        with asking(at) as admin:
            _applied(kind, put(admin, kind, file, reason, accept_impact=accept_impact), as_json)


def _undo(app: typer.Typer, kind: VersionKind) -> None:
    @app.command(
        help="Put an earlier version in force again, as a new version.",
        epilog=examples(
            f"stepwrit {kind} undo --reason 'mistake'", f"stepwrit {kind} undo --to 7 --reason 'mistake'"
        ),
    )
    def undo(
        reason: Reason,
        to: Annotated[
            int | None, typer.Option("--to", metavar="N", min=1, help="Which one. Default: the one before.")
        ] = None,
        at: At = None,
        as_json: Json = False,
    ) -> None:
        with asking(at) as admin:
            _applied(
                kind, {"changed": True, **admin.post(f"/{kind}/undo", {"to": to, "reason": reason})}, as_json
            )


def _export(app: typer.Typer, kind: VersionKind, file: str) -> None:
    @app.command(
        help=f"Print the {kind} in force, as a file that `apply` takes. Comments are not kept.",
        epilog=examples(f"stepwrit {kind} export" + (f" --to {file}" if kind == "policy" else f" > {file}")),
    )
    def export(
        to: Annotated[
            Path | None,
            typer.Option("--to", metavar="PATH", help="Write it there instead; a folder for a policy."),
        ] = None,
        at: At = None,
    ) -> None:
        with asking(at) as admin:
            doc: dict[str, Any] = json.loads(admin.get(f"/{kind}")["doc"])
        if to is None:
            typer.echo(as_file(kind, doc), nl=False)
            return
        for path, text in files_of(kind, doc, to).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            say(f"wrote {path}")


def put(
    admin: AdminClient, kind: VersionKind, file: Path, reason: str, *, accept_impact: bool = False
) -> Mapping[str, Any]:
    """Apply one file; the API's answer."""
    path = file.absolute()
    return _put(admin, kind, path, _text_of(kind, path), reason, accept_impact=accept_impact)


def _put(
    admin: AdminClient, kind: VersionKind, path: Path, text: str, reason: str, *, accept_impact: bool
) -> Mapping[str, Any]:
    body: dict[str, object] = {"text": text, "source": str(path), "reason": reason}
    answer: Mapping[str, Any] = admin.post(
        f"/{kind}/apply", {**body, "accept_impact": True} if accept_impact else body
    )
    return answer


def _text_of(kind: VersionKind, path: Path) -> str:
    from stepwrit_broker.wiring.documents import document_text  # noqa: PLC0415  a whole broker comes with it

    return document_text(kind, path)


def _checked(kind: VersionKind, path: Path) -> str:
    """The file's text. Raises Malformed before anything is sent."""
    from stepwrit_broker.wiring.documents import OperatorDocuments  # noqa: PLC0415

    text = _text_of(kind, path)
    OperatorDocuments().read(kind, text, str(path))
    return text


def _applied(kind: VersionKind, answer: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    elif answer["changed"]:
        say(f"{kind} v{answer['version']} is in force   {answer['digest']}")
    else:
        stays = f"v{answer['version']} stays in force" if "version" in answer else "what is in force stays"
        say(f"{kind}: nothing new in this file since it was last applied; {stays}")
        say(f"another version is put back with: stepwrit {kind} undo --to N   (stepwrit {kind} history)")


def apply_all(
    config: ConfigFile = None,
    reason: str = "",
    at: At = None,
    as_json: Json = False,
    *,
    accept_impact: bool = False,
) -> None:
    """Put all three files that broker.toml names in force."""
    settings = config_of(config)
    if settings is None:
        fail("there is no broker.toml to say which files; give --config FILE")
    files: dict[VersionKind, Path] = {
        "registry": settings.files.registry,
        "limits": settings.files.limits,
        "policy": settings.files.policy,
    }
    texts = {kind: _checked(kind, files[kind]) for kind in KINDS}  # all, before the first changes
    answers: dict[VersionKind, Mapping[str, Any]] = {}
    with asking(at or (settings.listen.admin if config is not None else None)) as admin:
        for kind in KINDS:
            answers[kind] = _put(admin, kind, files[kind], texts[kind], reason, accept_impact=accept_impact)
    if as_json:
        print_json(answers)
        return
    for kind in KINDS:
        _applied(kind, answers[kind], as_json=False)


def register(app: typer.Typer) -> None:
    """Put the groups and `apply` on the root."""
    panel = "Set the rules"
    from stepwrit_broker.cli.limits import add_limits  # noqa: PLC0415  it builds on this module
    from stepwrit_broker.cli.policies import add_rehearsal  # noqa: PLC0415
    from stepwrit_broker.cli.scaffolding import add_scaffold  # noqa: PLC0415

    groups = {kind: group(kind) for kind in KINDS}
    add_limits(groups["limits"])
    add_scaffold(groups["registry"])
    add_rehearsal(groups["policy"])
    for kind, commands in groups.items():
        app.add_typer(commands, name=kind, rich_help_panel=panel)

    @app.command(
        "apply",
        rich_help_panel=panel,
        help=apply_all.__doc__,
        epilog=examples("stepwrit apply --config /etc/stepwrit/broker.toml --reason 'release 12'"),
    )
    def apply(
        reason: Reason,
        config: ConfigFile = None,
        accept_impact: AcceptImpact = False,
        at: At = None,
        as_json: Json = False,
    ) -> None:
        apply_all(config, reason, at, as_json, accept_impact=accept_impact)
