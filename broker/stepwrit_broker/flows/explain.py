"""Tell the whole story of one ref: the chain, who started each step, what decided, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.ids import is_id, is_ref
from stepwrit_broker.ports import LedgerView, LoggedEntry

Json = dict[str, object]


def explain(ledger: LedgerView, name: str, tenant: str | None) -> Json:
    """The story under a ref or a transaction's id.

    {name, asked, txn, root, steps: a tree, events, decisions}. Raises Refused(`not_found`): unknown and
    not-yours look alike.
    """
    asked = _asked(ledger, name, tenant)
    txn = next((entry.txn for entry in asked if entry.txn), None)
    entries = list(ledger.of_txn(txn)) if txn is not None else list(asked)
    if tenant is not None:
        entries = [entry for entry in entries if entry.tenant in (None, tenant)]
    decisions = _decisions(ledger, entries)
    return {
        "name": name,
        "asked": [_event(entry) for entry in asked],
        "txn": txn,
        "root": _root(entries, decisions),
        "steps": _tree(entries),
        "events": [_event(entry) for entry in entries],
        "decisions": decisions,
        "erased": _erased(entries),
    }


def _asked(ledger: LedgerView, name: str, tenant: str | None) -> Sequence[LoggedEntry]:
    if is_ref(name):
        found = ledger.by_ref(name, tenant)
    elif is_id("txn", name):
        found = [entry for entry in ledger.of_txn(name) if tenant is None or entry.tenant == tenant]
    else:
        raise Refused("not_found", "give a ref (10 characters) or a transaction id")
    if not found:
        raise Refused("not_found", "nothing is recorded under this name")
    return found


def _facts(entry: LoggedEntry) -> Mapping[str, object]:
    return entry.facts if entry.facts is not None else {}


def _event(entry: LoggedEntry) -> Json:
    facts = _facts(entry)
    left_out = ("v", "kind", "at", "ref", "txn", "tenant")
    return {
        "seq": entry.seq,
        "at": entry.at,
        "kind": entry.kind,
        "ref": entry.ref,
        **{name: value for name, value in facts.items() if name not in left_out and value is not None},
    }


def _decisions(ledger: LedgerView, entries: Sequence[LoggedEntry]) -> Json:
    """By digest; None where the document has been erased.

    Not what a person showed to sign an approval: an ID token is for auditors' own tools.
    """
    told = [entry for entry in entries if entry.kind != "approval.signed"]
    digests = [digest for entry in told if isinstance(digest := _facts(entry).get("decision"), str)]
    return {digest: ledger.decision(digest) for digest in digests}


def _erased(entries: Sequence[LoggedEntry]) -> Json | None:
    """When and why salt and documents were erased; None while they are kept."""
    found = next((entry for entry in reversed(entries) if entry.kind == "txn.erased"), None)
    return None if found is None else _event(found)


def _root(entries: Sequence[LoggedEntry], decisions: Mapping[str, object]) -> Json | None:
    opened = next((entry for entry in entries if entry.kind == "intent.opened"), None)
    if opened is None:
        return None
    facts = _facts(opened)
    document = decisions.get(str(facts.get("decision")))
    kept = cast("Mapping[str, object]", document) if isinstance(document, Mapping) else {}
    return {
        "step": facts.get("step"),
        "initiator": facts.get("initiator"),
        "origin": facts.get("origin"),
        "proof": facts.get("proof"),
        "owner": facts.get("owner"),
        "cause": _cause(facts),
        "upstream": facts.get("upstream"),
        "without_step": facts.get("without_step"),
        "requester": kept.get("requester"),
        "purpose": kept.get("purpose"),
        "ceiling": facts.get("ceiling"),
    }


def _cause(facts: Mapping[str, object]) -> Json | None:
    """The step of another transaction that made the event, and that transaction."""
    step = facts.get("cause")
    return None if step is None else {"step": step, "txn": facts.get("cause_txn")}


def _tree(entries: Sequence[LoggedEntry]) -> list[Json]:
    """Steps as a tree, each with its grants, refusals and end."""
    steps: dict[str, Json] = {}
    roots: list[Json] = []
    for entry in entries:
        facts = _facts(entry)
        name = str(facts.get("step") or facts.get("parent") or "")
        if entry.kind in ("intent.opened", "step.opened"):
            steps[name] = _node(entry)
            parent = steps.get(str(facts.get("parent")))
            (cast("list[Json]", parent["children"]) if parent is not None else roots).append(steps[name])
        elif name in steps:
            _add(steps[name], entry)
    return roots


def _node(entry: LoggedEntry) -> Json:
    facts = _facts(entry)
    shown = (
        "step",
        "tool",
        "impact",
        "origin",
        "initiator",
        "performer",
        "influence",
        "decision",
        "deferred",
    )
    return {
        **{name: facts.get(name) for name in shown},
        "ref": entry.ref,
        "at": entry.at,
        "until": facts.get("expires_at"),
        "state": "opened",
        "runs": 0,
        "approval": None,
        "credentials": [],
        "refusals": [],
        "caused": [],
        "children": [],
    }


def _add(node: Json, entry: LoggedEntry) -> None:
    facts = _facts(entry)
    if entry.kind == "refused":
        cast("list[Json]", node["refusals"]).append(
            {
                name: facts.get(name)
                for name in ("verb", "code", "reason", "rule", "tool", "caller", "decision")
            }
            | {"ref": entry.ref}
        )
    elif entry.kind.startswith("grant."):
        _credential(node, entry)
    elif entry.kind.startswith("approval."):
        _approval(node, entry)
    elif entry.kind == "step.caused":
        caused: Json = {"step": facts.get("caused"), "txn": facts.get("caused_txn"), "by": facts.get("by")}
        cast("list[Json]", node["caused"]).append({**caused, "at": entry.at})
    elif entry.kind.startswith("step."):
        node["runs"] = facts.get("round", node["runs"])
        node["state"] = facts.get("state") or facts.get("outcome") or entry.kind.partition(".")[2]


def _credential(node: Json, entry: LoggedEntry) -> None:
    facts, known = _facts(entry), cast("list[Json]", node["credentials"])
    found = next((each for each in known if each["grant"] == facts.get("grant")), None)
    if found is None:
        found = {
            "grant": facts.get("grant"),
            "audience": facts.get("audience"),
            "method": facts.get("method"),
            "export": facts.get("export"),
            "ref": entry.ref,
        }
        known.append(found)
    found["state"] = entry.kind.partition(".")[2]


def _approval(node: Json, entry: LoggedEntry) -> None:
    """What was asked, who signed, and how it went on. `document`: under which it stands in `decisions`."""
    facts, event = _facts(entry), entry.kind.partition(".")[2]
    if event == "asked":
        names = ("approval", "policies", "expires_at", "digest")
        asked: Json = {name: facts.get(name) for name in names}
        node["approval"] = {
            **asked,
            "state": "asked",
            "at": entry.at,
            "document": facts.get("decision"),
            "signed": [],
        }
    told = cast("Json | None", node["approval"])
    if told is None:
        return  # its asking is in an export
    if event == "signed":
        names = ("who", "method", "authenticator", "missing")
        signature: Json = {name: facts.get(name) for name in names}
        cast("list[Json]", told["signed"]).append({**signature, "at": entry.at, "ref": entry.ref})
    elif event != "asked":
        told["state"], told["by"], told["reason"] = event, facts.get("by"), facts.get("reason")
        told["ended_at"], told["words"] = entry.at, facts.get("decision")
