"""How a transaction's story looks: a tree in which nobody mixes up a person, a model and a server.

The three origins differ by word, by sign and by colour, so that they are told apart in a pipe and in print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.style import Style
from rich.text import Text
from rich.tree import Tree

from stepwrit_broker.cli.output import NO, clock, harmless, when
from stepwrit_broker.cli.render_approval import approval_line
from stepwrit_broker.cli.render_crossing import caused_line, opens, upstream_lines
from stepwrit_broker.cli.story import Ending, Json, Told, is_sealed, told

_ORIGINS: Final[Mapping[str, tuple[str, str]]] = {
    "human": ("●", "bold green"),
    "model": ("◆", "bold cyan"),
    "server": ("■", "bold yellow"),
}
_PROOFS: Final = {"bound": "proof bound to this intent", "presented": "a session that the agent presented,"}
_STATES: Final[Mapping[str, str]] = {
    "done": "green",
    "redeemed": "green",
    "accepted": "cyan",
    "opened": "cyan",
    "issued": "cyan",
    "waiting": "cyan",
    "failed": "red",
    "revoked": "red",
}


def origin_badge(origin: object) -> Text:
    """`● HUMAN`, `◆ MODEL`, `■ SERVER`."""
    sign, style = _ORIGINS.get(str(origin), ("?", "bold red"))
    return Text(f"{sign} {str(origin or 'unknown').upper():<6}", style=style)


def story_view(story: Json) -> RenderableType:
    """The whole answer to `stepwrit explain`: what was asked about, then the tree."""
    story = _harmless(story)
    parts: list[RenderableType] = [_erased(story["erased"])] if story.get("erased") else []
    tree = None if story.get("txn") is None else lineage_tree(story)
    if tree is None or not (story.get("name") == story["txn"] or _is_in(tree, f"ref {story.get('name')}")):
        parts += _asked(story)
    if tree is not None:
        parts += [Text(), tree] if parts else [tree]
    return Group(*parts)


def _erased(said: Json) -> Text:
    line = f"erased {when(said.get('at'))} by {said.get('by')}: {said.get('reason')}   ref {said.get('ref')}"
    return Text(f"{line}\nnobody can show any more what its digests stand for", style="yellow")


def lineage_tree(story: Json) -> Tree:
    """The tree of `GET /v1/admin/explain/{name}`: each step with who started it, and all that came of it."""
    story = _harmless(story)
    facts = told(story)
    tree = Tree(_title(story, facts), guide_style=Style(dim=True))
    for step in story.get("steps") or ():
        _grow(tree, step, story, facts)
    for event in story.get("events") or ():
        if event["kind"] in ("mark.set", "mark.lifted"):
            tree.add(_mark(event, facts))
    return tree


def _harmless(value: Any) -> Any:
    """Purposes, reasons, names: whoever wrote them must not draw lines of the tree."""
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, Mapping):
        return {name: _harmless(each) for name, each in value.items()}
    return [_harmless(each) for each in value] if isinstance(value, list) else value


def _asked(story: Json) -> Iterable[RenderableType]:
    for event in story.get("asked") or ():
        yield Text.assemble((f"{event['kind']}", "bold"), f"  ref {event['ref']}  {when(event['at'])}")
        if event["kind"] == "refused":
            yield _refusal(event, story, told(story))
        else:
            yield from (Text(f"  {name}: {value}") for name, value in event.items() if name not in _HEAD)


def _is_in(tree: Tree, words: str) -> bool:
    return words in str(tree.label) or any(_is_in(child, words) for child in tree.children)


_HEAD: Final = ("kind", "ref", "at", "seq")


def _title(story: Json, facts: Told) -> Text:
    purpose = (story.get("root") or {}).get("purpose")
    title = Text(f"“{purpose}”" if purpose else "(its purpose is not kept here)", style="bold")
    title.append(f"\n{story.get('txn')}", style="dim")
    sealed = sum(map(is_sealed, story.get("events") or ()))
    if sealed:
        title.append(
            f"\nwhat {sealed} of its entries say is in an export (stepwrit ledger seal)", style="yellow"
        )
    if facts.home:
        title.append(f"\n{when(facts.began)}   spiffe://{facts.home}", style="dim")
    return title


def _grow(above: Tree, step: Json, story: Json, facts: Told) -> None:
    node = above.add(_label(step, story, facts))
    if step.get("approval") is not None:
        node.add(approval_line(step["approval"], story, facts))
    for credential in step.get("credentials") or ():
        node.add(_credential(credential, story, facts))
    for refusal in step.get("refusals") or ():
        node.add(_refusal(refusal, story, facts))
    for caused in step.get("caused") or ():
        node.add(caused_line(caused, facts))
    for child in step.get("children") or ():
        _grow(node, child, story, facts)


def _label(step: Json, story: Json, facts: Told) -> Text:
    if step.get("step") is None:
        line = Text("? a step whose story is in an export", style="yellow")
        return _tail(line, step, story, facts)
    return _root(step, story, facts) if step.get("tool") is None else _step(step, story, facts)


def _root(step: Json, story: Json, facts: Told) -> Text:
    root: Json = story.get("root") or {}
    line = origin_badge(step.get("origin"))
    line.append(" intent", style="bold")
    line.append(_state(step))
    line.append(f"\n{_started_by(root)} via {facts.short(step.get('initiator'))}")
    ceiling = root.get("ceiling")
    if isinstance(ceiling, Mapping):
        tools = ", ".join(map(str, ceiling.get("tools") or ())) or "nothing"
        line.append(f"\nceiling {tools}, up to {ceiling.get('impact')} impact", style="dim")
    cause = root.get("cause")
    if isinstance(cause, Mapping):
        line.append(f"\ncaused by {cause.get('step')} in {cause.get('txn')}", style="yellow")
    line.append(upstream_lines(root))
    return _tail(line, step, story, facts)


def _started_by(root: Json) -> str:
    if isinstance(root.get("upstream"), Mapping):
        return f"a peer that {root.get('owner')} answers for,"
    person = root.get("requester")
    if isinstance(person, Mapping):
        proof = _PROOFS.get(str(root.get("proof")), "no proof")
        return f"{person.get('subject')} of {person.get('issuer')}, {proof}"
    if root.get("without_step"):
        return f"a call of {root['without_step']} that came without a step, nobody behind it,"
    if root.get("owner"):
        return f"a trigger that {root['owner']} answers for,"
    return "a person whose name has been erased," if root.get("proof") else "a trigger,"


def _step(step: Json, story: Json, facts: Told) -> Text:
    line = origin_badge(step.get("origin"))
    line.append(f" {step.get('tool')}", style="bold")
    line.append(f"  {step.get('impact')} impact", style="bold red" if step.get("impact") == "high" else "")
    line.append(_state(step))
    if step.get("deferred"):
        line.append(f"  deferred{_runs(step)}")
    performer = facts.performers.get(str(step.get("step"))) or step.get("performer")
    line.append(f"\n{facts.short(step.get('initiator'))} → {facts.short(performer)}")
    line.append(_declared(step, story))
    line.append(_influence(step, story))
    return _tail(line, step, story, facts)


def _runs(step: Json) -> str:
    """How often it was taken up, or until when it can be."""
    runs = step.get("runs") or 0
    if runs:
        return f", {runs} run{'s' if runs > 1 else ''}"
    until = step.get("until") if step.get("state") == "opened" else None
    return f", until {clock(until)}" if isinstance(until, int | float) else ""


def _declared(step: Json, story: Json) -> Text:
    kept: Any = (story.get("decisions") or {}).get(step.get("decision")) or {}
    found: Any = (kept.get("document") or {}).get("workflow")
    if not isinstance(found, Mapping):
        return Text()
    said = f"{found.get('name')}: {found.get('step')}, {found.get('nth')} of {found.get('times')}"
    return Text(f"\nworkflow {said}", style="dim")


def _influence(step: Json, story: Json) -> Text:
    """What could have had a part in it; where the document is gone, the numbers of those steps."""
    kept: Any = (story.get("decisions") or {}).get(step.get("decision")) or {}
    seen: Any = (kept.get("document") or {}).get("influence")
    line = Text()
    if not isinstance(seen, list):
        numbers = step.get("influence")
        return line.append(f"\ncould have seen steps {numbers}", style="dim") if numbers else line
    for number, each in enumerate(seen):
        line.append(", " if number else "\ncould have seen ", style="dim")
        times = f" ×{each['times']}" if each.get("times", 1) > 1 else ""
        is_untrusted = each.get("returns") == "untrusted"
        word = " (untrusted)" if is_untrusted else ""
        line.append(f"{each.get('tool')}{times}{word}", style="yellow" if is_untrusted else "dim")
    return line


def _state(step: Json) -> Text:
    state = str(step.get("state") or "opened")
    return Text(f"  {state}", style=_STATES.get(state, "yellow"))


def _tail(line: Text, step: Json, story: Json, facts: Told) -> Text:
    ended = facts.ended.get(str(step.get("step")))
    line.append(f"\n{clock(step.get('at'))}", style="dim")
    if ended is not None and isinstance(step.get("at"), int | float):
        line.append(f" for {ended - step['at']:.3f} s", style="dim")
    line.append(f"   {facts.ref(step.get('ref'))}", style="dim")
    line.append(_decided(step.get("decision"), story))
    return line


def _decided(digest: object, story: Json) -> Text:
    """Which policies said yes, in which versions; nothing where nothing was decided."""
    if not isinstance(digest, str):
        return Text()
    kept: Any = (story.get("decisions") or {}).get(digest)
    if not isinstance(kept, Mapping):
        return Text(f"\ndecision {digest[:12]}…: its document has been erased", style="dim")
    policies = ", ".join(map(str, kept.get("policies") or ())) or "default"
    return Text(f"\n{kept.get('verdict')} by {policies}{_versions(kept.get('versions'))}", style="dim")


def _versions(versions: object) -> str:
    if not isinstance(versions, Mapping):
        return ""
    named = (f"{name} v{versions[name]}" for name in ("policy", "registry", "limits") if name in versions)
    return f" ({', '.join(named)})"


def _credential(credential: Json, story: Json, facts: Told) -> Text:
    grant = str(credential.get("grant"))
    ending = facts.endings.get(grant) or Ending(state=str(credential.get("state")))
    if grant in facts.own:
        line = Text("used at once ", style="bold")
        line.append("by the tool itself, which is its own resource")
        line.append(f"\n{facts.after(ending.at)}   {facts.ref(credential.get('ref'))}", style="dim")
        return line
    if credential.get("audience") is None:
        return Text(f"credential   {facts.ref(credential.get('ref'))}", style="yellow")
    export = credential.get("export")
    line = Text("credential " if export is None else "⇢ granted ", style="bold")
    line.append(opens(credential))
    line.append(f"  {ending.state}", style=_STATES.get(ending.state, "yellow"))
    if ending.by:
        line.append(f" by {facts.short(ending.by)}")
    issued = facts.after(facts.issued.get(grant))
    spent = facts.after(ending.at)
    moments = f"issued {issued}" if issued else ""
    line.append(f"\n{moments}{f', {ending.state} {spent}' if spent and spent != issued else ''}", style="dim")
    line.append(f"   {facts.ref(credential.get('ref'))}", style="dim")
    line.append(_decided(facts.issues.get(grant), story))
    return line


def _refusal(refusal: Json, story: Json, facts: Told) -> Text:
    if refusal.get("code") is None:
        return Text(f"{NO} refused   {facts.ref(refusal.get('ref'))}", style="bold red")
    line = Text(f"{NO} refused at {refusal.get('verb')}: ", style="bold red")
    line.append(f"{refusal.get('code')}", style="bold")
    line.append(f"  {refusal.get('reason')}")
    said = f"by {facts.short(refusal['caller'])}" if refusal.get("caller") else ""
    said += f" for {refusal['tool']}" if refusal.get("tool") else ""
    rule = f"rule {refusal['rule']}   " if refusal.get("rule") else ""
    line.append(f"\n{said}\n{rule}{facts.ref(refusal.get('ref'))}", style="dim")
    line.append(_decided(refusal.get("decision"), story))
    return line


def _mark(event: Json, facts: Told) -> Text:
    word = f"{event.get('verb')} set" if event["kind"] == "mark.set" else "freeze lifted"
    line = Text(f"! {word} ", style="bold red")
    line.append(f"on {event.get('target')} by {facts.short(event.get('by'))}: {event.get('reason')}")
    line.append(f"\n{clock(event['at'])}   {facts.ref(event['ref'])}", style="dim")
    return line
