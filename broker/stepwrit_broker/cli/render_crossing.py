"""How what leaves a transaction and what came into it look: events, and grants of other trust domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from stepwrit_broker.cli.story import Json, Told


def caused_line(caused: Json, facts: Told) -> Text:
    """Another transaction that came of this step, by way of a trigger's event."""
    line = Text("⤷ caused ", style="bold yellow")
    line.append(f"{caused.get('txn')}")
    line.append(f"\nby an event that {facts.short(caused.get('by'))} passed on", style="dim")
    return line.append(f"\n{facts.after(caused.get('at'))}", style="dim")


def opens(credential: Json) -> str:
    """What a credential is for, or to which broker the step was granted."""
    export = credential.get("export")
    if isinstance(export, Mapping):
        return f"to {export.get('issuer')}, digest {export.get('digest')}"
    return f"{credential.get('method')} at {credential.get('audience')}"


def upstream_lines(root: Json) -> Text:
    """The grant that started a root, and what its issuer says of its own step; nothing for any other."""
    upstream = root.get("upstream")
    if not isinstance(upstream, Mapping):
        return Text()
    claims: Any = upstream.get("claims") or {}
    line = Text(f"\n⇠ granted by {upstream.get('issuer')}, digest {upstream.get('digest')}", style="bold")
    said = f"origin {claims.get('origin')}, step {claims.get('step')}, ref {claims.get('ref')}"
    return line.append(f"\nwhat it says of itself: {said}", style="yellow")
