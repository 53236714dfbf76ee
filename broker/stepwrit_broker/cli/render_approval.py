"""How an approval looks in a transaction's story: who had to sign, who did and with what, and its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.text import Text

from stepwrit_broker.cli.story import Json, Told

_STYLES: Final = {"asked": "bold cyan", "given": "green", "used": "green"}
_METHODS: Final = {"webauthn": "a passkey", "key": "a key", "oidc": "signing in anew"}
_WHO_SHOWN: Final = 12  # of a salted id: enough to tell two persons of one story apart


def approval_line(approval: Json, story: Json, facts: Told) -> Text:
    """The branch below its step. Persons are shown by their salted ids, as the log has them."""
    state = str(approval.get("state"))
    line = Text("approval ", style="bold")
    line.append(state, style=_STYLES.get(state, "yellow"))
    line.append(f"   {approval.get('approval')}", style="dim")
    policies = ", ".join(map(str, approval.get("policies") or ())) or "?"
    line.append(f"\ndemanded by {policies}{_terms(_signed_document(approval, story))}", style="dim")
    for each in approval.get("signed") or ():
        line.append(f"\nsigned by {_signature(each, facts)}")
    line.append(_end(approval, story, facts))
    return line


def _signed_document(approval: Json, story: Json) -> Json | None:
    kept: Any = (story.get("decisions") or {}).get(approval.get("document"))
    signed = kept.get("signed") if isinstance(kept, Mapping) else None
    return signed if isinstance(signed, Mapping) else None


def _terms(signed: Json | None) -> str:
    if signed is None:
        return ": what was signed has been erased, its digest is kept"
    return f": {' and '.join(_term(each) for each in signed.get('terms') or ())}"


def _term(each: Json) -> str:
    return f"{each.get('count')} of {', '.join(_may_sign(each)) or 'nobody'}"


def _may_sign(each: Json) -> Iterator[str]:
    if each.get("requester"):
        yield "the requester" if each.get("alone") else "the requester (not alone)"
    yield from map(str, each.get("persons") or ())


def _signature(each: Json, facts: Told) -> str:
    how = _METHODS.get(str(each.get("method")), str(each.get("method")))
    name = f" ({each['authenticator']})" if each.get("authenticator") else ""
    return f"{str(each.get('who'))[:_WHO_SHOWN]}… with {how}{name}  {facts.after(each.get('at'))}"


def _end(approval: Json, story: Json, facts: Told) -> Text:
    at = approval.get("ended_at")
    if at is None or approval.get("state") == "asked":
        return Text()
    by = str(approval.get("by") or "")
    who = (
        f" by {by[:_WHO_SHOWN]}…"
        if approval.get("state") == "denied"
        else f" by {facts.short(by)}"
        if by
        else ""
    )
    kept: Any = (story.get("decisions") or {}).get(approval.get("words")) or {}
    said = approval.get("reason") or kept.get("reason")
    reason = f": {said}" if said else ""
    return Text(f"\n{approval.get('state')} {facts.after(at)}{who}{reason}", style="dim")
