"""What a candidate would change, as people read it; `replay`, `shadow` and `impact` tell it alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwrit_broker.cli.output import print_table, say
from stepwrit_broker.core.change import EFFECTS

Json = Mapping[str, Any]


def tell_changes(found: Json) -> None:
    """A line for each kind of change, then whom and what it would hit; nothing where there is none.

    found: `changes_json`.
    """
    if not found["changes"]:
        return
    print_table(
        ("effect", "change", "asked", "tool", "SPIFFE ID", "times", "decided by", "last ref"),
        [_row(each) for each in found["changes"]],
        empty="",
    )
    if found["changes_left_out"]:
        say(f"and {found['changes_left_out']} more kinds of change", style="dim")
    present = [effect for effect in EFFECTS if effect in found["effects"]]
    for name in ("tools", "initiators", "policies"):
        say("")
        rows = [(each, *map(counts.get, present)) for each, counts in found[name].items()]
        print_table((name, *present), rows, empty="")
    say("")


def _row(each: Json) -> tuple[object, ...]:
    return (
        each["effect"],
        _change(each),
        each["asking"],
        each["tool"],
        each["who"],
        each["count"],
        ", ".join(each["policies"]) or "no policy",
        each["last_ref"],
    )


def _change(each: Json) -> str:
    if each["was"] != each["now"]:
        return f"{each['was']} → {each['now']}"
    was, now = (", ".join(each["demands"][when]) or "none" for when in ("was", "now"))
    return f"{was} → {now}"


def tell_asked(found: Json) -> None:
    """How many were asked again, how they came out, and what could not be asked."""
    changed = found["asked"] - found["same"]
    say(f"{found['asked']} decisions asked again: {found['same']} the same, {changed} otherwise")
    for what, count in found["effects"].items():
        say(f"  {count} {what}", style="bold")
    for why, count in found["not_asked_again"].items():
        say(f"  {count} not asked again: {why}", style="yellow")
