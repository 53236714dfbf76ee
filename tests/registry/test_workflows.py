"""The `workflows` of registry.yaml: what they compile to, and that each mistake is named where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwrit_broker.core.declared import Condition, Declared, Earlier
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.registry.difference import difference
from stepwrit_broker.registry.files import compile_registry, load_registry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy" / "policies" / "scenarios" / "registry" / "month-end.yaml").read_text()


def changed(old: str, new: str) -> str:
    """The problems of the example with one change, each as `line:column: what`, one a line."""
    load_registry(TEXT, name="r")
    assert old in TEXT
    with pytest.raises(Malformed) as refused:
        load_registry(TEXT.replace(old, new, 1), name="r")
    return refused.value.reason


def test_the_example_means_what_it_says() -> None:
    stored, registry = load_registry(TEXT, name="r")
    month_end, nightly = registry.workflows
    assert (month_end.name, month_end.tenant) == ("month-end", "default")
    assert month_end.steps[0] == Declared(
        name="close",
        by="chat",
        tool="ledger/close",
        conditions=(Condition(fact="month", at_least=1, at_most=12),),
    )
    assert month_end.steps[3] == Declared(
        name="statement",
        by="ledger",
        tool="mail/send",
        under="close",
        after=("check", "seal"),
        times=2,
        conditions=(
            Condition(fact="month", same_as=Earlier("seal", "month")),
            Condition(fact="to", among=("board@prod.example", "cfo@prod.example")),
        ),
    )
    assert nightly.steps[1].conditions == (Condition(fact="to", among=("archive",)),)
    assert [each[0].name for each in registry.declarations("ledger/export")] == ["nightly"]
    assert registry.declarations("ledger/none") == ()
    assert compile_registry(stored.doc, 3).workflows == registry.workflows


CHECK = "      - {name: seal,"
MISTAKES = [
    ("  - name: nightly\n    about", "  - name: month-end\n    about", "the same name is in workflow 0"),
    ("{name: check, by", "{name: close, by", "is already a step of this workflow"),
    ("tool: audit/check, under", "tool: audit/none, under", "there is no such tool in tenant default"),
    ("tool: audit/check, under", "tool: none/check, under", "there is no such tool in tenant default"),
    (
        "by: chat, tool",
        "by: nobody, tool",
        "there is no agent, mcp-server or trigger named nobody",
    ),
    ("by: nightly, tool: ledger/balance", "by: nightly, tool: mail/read", "nightly may not start mail/read"),
    (
        "by: chat, tool: ledger/close",
        "by: ledger, tool: audit/check",
        "needs under: a server starts",
    ),
    (
        "by: ledger, tool: audit/seal",
        "by: audit, tool: mail/send",
        "audit does not perform close",
    ),
    (
        "tool: audit/check, under: close",
        "tool: audit/check, under: statement",
        "must name a step that stands before",
    ),
    ("after: [check], ", "after: [statement], ", "must name a step that stands before this one"),
    ("after: [check], ", "after: [close], ", "close is not under the same step"),
    ("facts: {month: {at_least", "facts: {year: {at_least", "ledger/close has no fact year in the registry"),
    ("{is: archive}", "{is: archive, among: [b]}", "says is and among at once"),
    (
        "{same_as: close.month}",
        "{same_as: statement.month}",
        "statement is neither above this step",
    ),
    ("{same_as: close.month}", "{same_as: close.to}", "ledger/close has no fact to in the registry"),
    ("{same_as: seal.month}", "{same_as: check.month}", "check may be there 2 times: which one is not known"),
    ("times: 2, facts", "times: 0, facts", "must be at least 1"),
    ("{is: archive}", "{is: 1.5}", "must be a whole number"),
    ("{is: archive}", "{}", "needs at least 1"),
    ("{is: archive}", "{above: 3}", "is not known here"),
    ("{same_as: close.month}", "{same_as: month}", "must be"),
    ("after: [look]", "after: []", "needs at least 1"),
    ("  - name: nightly\n    about", "  - name: Nightly\n    about", "must be a short name"),
]


@pytest.mark.parametrize(("old", "new", "what"), MISTAKES)
def test_a_mistake_is_named_where_it_stands(old: str, new: str, what: str) -> None:
    said = changed(old, new)
    line = TEXT[: TEXT.index(old)].count("\n") + 1 + old.startswith("  - name")
    assert what in said
    assert said.split(":")[1] in {str(line), str(line - 1)}, said


def test_a_form_that_is_declared_is_performed_by_the_agent() -> None:
    ask = "{name: ask, by: ledger, tool: client/elicitation, under: close}"
    below = "{name: again, by: chat, tool: ledger/balance, under: ask}"
    good = TEXT.replace(CHECK, f"      - {ask}\n      - {below}\n{CHECK}", 1)
    _, registry = load_registry(good, name="r")
    assert [each.name for each in registry.workflows[0].steps][2:4] == ["ask", "again"]
    with pytest.raises(Malformed, match="ledger does not perform ask"):
        load_registry(
            good.replace("by: chat, tool: ledger/balance", "by: ledger, tool: audit/check"), name="r"
        )


def test_what_changes_of_workflows_is_told_and_marks_nothing() -> None:
    _, now = load_registry(TEXT, name="r")
    _, narrower = load_registry(TEXT.replace("times: 2, facts", "times: 1, facts", 1), name="r")
    start = TEXT.index("workflows:")
    _, without = load_registry(TEXT[:start] + "count: 6\n", name="r")

    def told(old: object, new: object) -> list[tuple[str, str]]:
        made = difference(old, new)  # type: ignore[arg-type]
        assert not any(target.startswith("workflow:") for target in (*made.gone, *made.back))
        return [(each.what, each.target) for each in made.changes if each.target.startswith("workflow:")]

    assert told(now, now) == []
    assert told(now, narrower) == [("changed", "workflow:month-end")]
    assert told(now, without) == [("removed", "workflow:month-end"), ("removed", "workflow:nightly")]
    assert told(None, now) == [("added", "workflow:month-end"), ("added", "workflow:nightly")]


def test_what_changes_of_influence_is_told() -> None:
    _, now = load_registry(TEXT, name="r")
    _, untrusted = load_registry(
        TEXT.replace("balance: {impact: low, returns: trusted", "balance: {impact: low"), name="r"
    )
    believed = TEXT.replace("    name: chat\n", "    name: chat\n    narrows_influence: true\n")
    _, narrowing = load_registry(believed, name="r")
    assert [(each.what, each.detail) for each in difference(now, untrusted).changes] == [
        ("narrowed", "returns trusted to untrusted")
    ]
    assert [each.what for each in difference(untrusted, now).changes] == ["changed"]
    assert [(each.what, each.detail) for each in difference(now, narrowing).changes] == [
        ("changed", "narrows_influence")
    ]
    assert [each.what for each in difference(narrowing, now).changes] == ["narrowed"]
    with pytest.raises(Malformed, match="narrows_influence"):
        load_registry(
            TEXT.replace("    name: mail\n", "    name: mail\n    narrows_influence: true\n"), name="r"
        )
