"""Scenario files: strict, and made into the very questions that the broker asks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator

from stepwrit.digest import args_digest
from stepwrit_broker.core.answer import answer_of
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.terms import Terms
from stepwrit_broker.core.verdict import NeedsApproval, Question
from stepwrit_broker.rehearsal.suite import read_suite, read_suites

ROOT = Path(__file__).parents[2]
SCENARIOS = ROOT / "deploy" / "policies" / "scenarios"
SUITE = """\
version: 1
registry_file: registry/parties.yaml
given:
  starter: chat
  requester: {issuer: "https://idp.example", subject: alice}
  action: {tool: ledger/transfer, args: {amount: 7, to: bob}}
scenarios:
  - name: one
    given: {chain: [notes/read], action: {impact: high}}
    expect: {verdict: permit}
count: 1
"""
GIVEN = "given: {chain: [notes/read], action: {impact: high}}"


def read(text: str) -> list[Question]:
    return [case.question for case in read_suite(text, "s", SCENARIOS)]


def problems(text: str) -> list[str]:
    with pytest.raises(Malformed) as refused:
        read(text)
    return refused.value.reason.splitlines()


def changed(old: str, new: str) -> str:
    assert old in SUITE
    assert read(SUITE)
    return SUITE.replace(old, new)


def given(text: str) -> str:
    return changed(GIVEN, f"given: {text}")


def test_every_shipped_scenario_is_a_decision_document_of_the_published_schema() -> None:
    schema = json.loads((ROOT / "docs/reference/schemas/decision.schema.json").read_text())
    validator = Draft202012Validator(schema)
    cases = read_suites([SCENARIOS])
    assert {case.question.asking for case in cases} == {"start_intent", "open_step", "issue_credential"}
    for case in cases:
        assert [error.message for error in validator.iter_errors(dict(case.question.document))] == []


def test_the_question_is_built_as_the_flows_build_it() -> None:
    opened, issued = read(SUITE)
    told = cast("dict[str, Any]", opened.document)
    ledger = "spiffe://prod.example/ns/pay/sa/ledger-mcp"
    assert (opened.principal, opened.resource) == ("spiffe://prod.example/notes", "ledger/transfer")
    assert (told["origin"], told["depth"], told["home"], told["now"]) == (
        "server",
        2,
        "prod.example",
        1800000000,
    )
    assert [hop["tool"] for hop in told["chain"]] == ["notes/read", "ledger/transfer"]
    assert [hop["origin"] for hop in told["chain"]] == ["model", "server"]
    assert told["performer"]["id"] == f"{ledger}/*"
    assert told["facts"] == {"amount": 7}
    assert told["action"]["args"] == args_digest({"amount": 7, "to": "bob"})
    assert (told["action"]["impact"], told["redeemer"], told["approval"]) == ("high", None, None)
    assert issued.principal == f"{ledger}/scenario"
    credential = cast("dict[str, Any]", issued.document)
    assert (credential["audience"], credential["redeemer"]["name"]) == ("https://bank.example", "bank")


def test_what_is_written_takes_the_registrys_place() -> None:
    plan = '[{at: "https://x.example", request: GET /v1/a, query: [page], times: 2}]'
    (asked,) = read(
        given(
            "{asking: [open_step], attested_by: jwt, time: '2030-01-01T00:00:00Z', "
            "deferred: true, influence: [notes/read, {tool: ledger/transfer, impact: medium}, notes/read],"
            f" action: {{facts: {{vip: true}}, schema: S, plan: {plan}}}, approvals: [{{approver: bob}}],"
            " ceiling: {tools: [audit/*], impact: low}, budgets: {steps: 3, server_steps: 1},"
            " home: a.example}"
        )
    )
    told = cast("dict[str, Any]", asked.document)
    assert told["facts"] == {"vip": True}
    assert told["plan"] == [
        {"at": "https://x.example", "method": "GET", "path": "/v1/a", "query": ["page"], "times": 2}
    ]
    assert told["approval"] == {"id": "apr_scenario", "approver": "bob"}
    assert (told["attested_by"], told["now"], told["deferred"]) == ("jwt", 1893456000, True)
    assert (told["home"], told["action"]["schema"]) == ("a.example", "S")
    assert [
        (each["tool"], each["impact"], each["origin"], each["returns"], each["times"])
        for each in told["influence"]
    ] == [
        ("notes/read", "low", "model", "untrusted", 2),
        ("ledger/transfer", "medium", "model", "untrusted", 1),
    ]
    assert told["ceiling"] == {"tools": ["audit/*"], "impact": "low"}
    assert told["budgets"] == {"steps": 3, "server_steps": 1}


IMPOSSIBLE = [
    ("{starter: nobody}", "starter", "must name who started it: an entry of the registry"),
    ("{origin: human}", "origin", "cannot be human: who started it and the chain make it model"),
    ("{owner: ops}", "owner", "a transaction is a person's or an owner's, not both"),
    ("{chain: [nowhere/read]}", "chain[0]", "there is no mcp-server named nowhere in the registry"),
    ("{chain: [notes/write]}", "chain[0]", "notes has no tool write"),
    ("{influence: [notes/write]}", "influence[0]", "notes has no tool write"),
    ("{chain: [client/elicitation]}", "chain[0]", "the client's own tools open nothing"),
    (
        "{action: {tool: client/elicitation}}",
        "action.tool",
        "the client's own tools have no credential; ask open_step",
    ),
    (
        "{audience: 'https://y.example'}",
        "audience",
        "no resource of the registry redeems for https://y.example",
    ),
    ("{time: '2030-02-31T00:00:00Z'}", "time", "there is no such time"),
    (
        "{asking: [start_intent]}",
        "asking",
        "an intent has no action and no chain (`without` takes the file's away)",
    ),
    ("{action: {facts: {a: 1.5}}}", "action.facts", "must be a short string, a whole number or a boolean"),
    ("{action: {args: {amount: 1.5}}}", "action.args", "must be a short string, a whole number or a boolean"),
]


@pytest.mark.parametrize(("text", "path", "what"), IMPOSSIBLE, ids=[each[1] for each in IMPOSSIBLE])
def test_what_cannot_be_is_refused_at_its_place(text: str, path: str, what: str) -> None:
    (said,) = problems(given(text))
    assert said.startswith("s:9:")
    assert f": scenarios[0].given.{path}: " in said
    assert said.endswith(what)


def test_the_terms_that_are_expected_are_compared_with_those_that_came() -> None:
    text = changed(
        "verdict: permit", "verdict: approval, terms: [{}, {approvers: [bob], requester: may sign}]"
    )
    expected = read_suite(text, "s", SCENARIOS)[0].expected
    came = (Terms(), Terms(persons=frozenset({"bob"})))
    answer = answer_of(NeedsApproval(policies=("a",), setting="s", terms=came))
    assert expected.differences(answer) == []
    assert expected.differences(replace(answer, terms=came[:1])) == [
        "terms: expected 1 of requester, 1 of requester, bob, came 1 of requester"
    ]


def test_a_step_without_an_action_is_none() -> None:
    assert problems(changed(GIVEN, "without: [action]")) == [
        "s:8:5: scenarios[0].given.action: needs an action with a tool"
    ]


SHAPES = [
    ("count: 1\n", "count: 2\n", "s:11:1: count: says 2, but there are 1 scenarios"),
    (
        "verdict: permit",
        "verdict: maybe",
        "s:10:14: scenarios[0].expect.verdict: must be one of permit, approval, deny",
    ),
    ("starter: chat", "stater: chat", "s:4:3: given.stater: is not known here; did you mean starter?"),
    ("registry/parties", "registry/none", "s:2:1: registry_file: "),
    ("registry_file: registry/parties.yaml\n", "", "s:1:1: needs either registry or registry_file"),
    (
        "registry_file: registry/parties.yaml",
        "registry: {entries: [{id: 'spiffe://a/b', role: agent}]}",
        "s:2:22: registry.entries[0]: needs name",
    ),
    (
        "verdict: permit",
        "verdict: approval, terms: [{approvers: [bob], signatures: 2}]",
        "s:10:33: scenarios[0].expect.terms: 2 signatures of 1 persons who may sign",
    ),
    ("verdict: permit", "verdict: approval, terms: [{requester: never}]", "must be one of may sign"),
    ("  - name: one\n", "  - {name: one, expect: {verdict: deny}}\n  - name: one\n", "count"),
]


@pytest.mark.parametrize(("old", "new", "said"), SHAPES)
def test_every_problem_of_the_file_is_at_its_line_and_column(old: str, new: str, said: str) -> None:
    assert any(said in line for line in problems(changed(old, new)))


def test_two_scenarios_of_one_name_and_count_before_the_end_are_refused() -> None:
    twice = changed("count: 1\n", "").replace(
        "scenarios:\n", "count: 2\nscenarios:\n  - {name: one, expect: {verdict: deny}}\n"
    )
    assert problems(twice) == [
        "s:7:1: count: must be the last line of the file",
        "s:10:5: scenarios[1].name: is already scenario 0",
    ]


def test_every_file_that_is_wrong_is_named_and_an_empty_folder_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("version: 2\n")
    with pytest.raises(Malformed) as refused:
        read_suites([tmp_path])
    assert {line.rpartition("/")[2][:6] for line in refused.value.reason.splitlines()} == {"a.yaml", "b.yaml"}
    with pytest.raises(Malformed, match="cannot be read"):
        read_suites([tmp_path / "c.yaml"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(Malformed, match="in this folder"):
        read_suites([tmp_path / "empty"])
