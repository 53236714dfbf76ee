"""What a new registry takes away, gives back and narrows, told apart."""

from __future__ import annotations

from tests.registry.files import REGISTRY

from stepwrit_broker.core.registry import Registry
from stepwrit_broker.registry.difference import Change, difference
from stepwrit_broker.registry.files import load_registry

BANK = "  - {id: spiffe://prod.example/bank, role: resource, name: bank, audience: https://bank.example}\n"
CRON = "workload:spiffe://prod.example/cron"


def registry(*edits: tuple[str, str]) -> Registry:
    text = REGISTRY
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return load_registry(text, name="r")[1]


def without_cron() -> Registry:
    start = REGISTRY.index("  - id: spiffe://prod.example/cron")
    end = REGISTRY.index("  - {id: spiffe://prod.example/alice")
    return registry((REGISTRY[start:end], ""), ("count: 6", "count: 5"))


def test_an_unchanged_registry_differs_in_nothing() -> None:
    found = difference(registry(), registry())
    assert (found.changes, found.gone, found.back) == ((), (), ())


def test_a_first_registry_only_adds() -> None:
    found = difference(None, registry())
    assert found.gone == ()
    assert {change.what for change in found.changes} == {"added"}
    assert "resource:https://bank.example" in found.back
    assert "tool:ledger/transfer" in found.back


def test_what_is_removed_is_gone_and_what_returns_is_back() -> None:
    there, without = registry(), without_cron()
    assert (difference(there, without).gone, difference(there, without).back) == ((CRON,), ())
    assert (difference(without, there).gone, difference(without, there).back) == ((), (CRON,))
    assert difference(there, without).changes == (Change(what="removed", target=CRON),)


def test_a_removed_tool_and_audience_are_marked_by_their_own_names() -> None:
    found = difference(registry(), registry(("      whoami: {impact: low, plan: self}\n", "")))
    assert found.gone == ("tool:ledger/whoami",)
    moved = registry(("https://bank.example", "https://bank2.example"))
    assert difference(registry(), moved).gone == ("resource:https://bank.example",)


def test_less_is_called_narrowed_and_more_is_called_changed() -> None:
    raised = registry(
        ("      list_transfers:\n        impact: low", "      list_transfers:\n        impact: medium")
    )
    target = "tool:ledger/list_transfers"
    assert difference(registry(), raised).changes == (
        Change(what="narrowed", target=target, detail="impact low to medium"),
    )
    assert difference(raised, registry()).changes == (
        Change(what="changed", target=target, detail="impact medium to low"),
    )
    fewer = registry(("[audit/*, client/elicitation]", "[audit/*]"))
    [change] = difference(registry(), fewer).changes
    assert (change.what, change.detail) == ("narrowed", "may_start")
    [change] = difference(fewer, registry()).changes
    assert (change.what, change.detail) == ("changed", "may_start")
    [change] = difference(registry(), registry(("times: 1}", "times: 2}"))).changes
    assert (change.what, change.detail) == ("narrowed", "plan")
    [change] = difference(registry(), registry(("max_auth_age: 30m", "max_auth_age: 10m"))).changes
    assert (change.what, change.detail) == ("narrowed", "max_auth_age")
    assert (
        difference(registry(), registry((BANK, BANK.replace("}", ", person_claims: true}")))).changes[0].what
        == "changed"
    )


def test_who_may_call_without_a_step_is_told() -> None:
    let_in = registry(("whoami: {impact: low,", "whoami: {impact: low, without_step: root,"))
    [change] = difference(registry(), let_in).changes
    assert (change.what, change.target, change.detail) == (
        "changed",
        "tool:ledger/whoami",
        "without_step refuse to root",
    )
    [change] = difference(let_in, registry()).changes
    assert (change.what, change.detail) == ("narrowed", "without_step root to refuse")


def test_every_other_difference_is_called_changed() -> None:
    for old, new in (
        ("name: alice}", "name: alicia}"),
        ("owner: ops@", "owner: dev@"),
        ("url: https://ledger.example/mcp", "url: https://ledger.example/v2"),
        ("facts: {amount: /amount}", "facts: {amount: /cents}"),
        ("sha256-A", "sha256-B"),
    ):
        [change] = difference(registry(), registry((old, new))).changes
        assert change.what == "changed"
    other = ("client_id: chat-app}", "client_id: other}")
    assert difference(registry(), registry(other)).changes[0].what == "narrowed"
