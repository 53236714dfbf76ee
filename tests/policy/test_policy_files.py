"""Policy as files: what loads, what is refused, and where the error is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.policy.files import (
    STANCES,
    EngineName,
    compile_policy,
    load,
    load_folder,
    schema_text,
    stance,
)
from stepwrit_broker.policy.source import statements

ROOT = Path(__file__).parents[2]
GOOD = '@id("yes") permit (principal, action, resource);'


def problems(**files: str) -> str:
    with pytest.raises(Malformed) as refused:
        load({f"{name}.cedar": text for name, text in files.items()})
    return refused.value.reason


@pytest.mark.parametrize(("engine", "below"), [("cedar", ""), ("opa", "opa")])
@pytest.mark.parametrize("name", STANCES)
def test_the_shipped_stances_load_and_deploy_holds_the_same_files(
    name: str, engine: EngineName, below: str
) -> None:
    assert load(stance(name, engine)).digest.startswith("sha256-")
    folder = ROOT / "deploy" / "policies" / below / name
    assert {path.name: path.read_text() for path in folder.iterdir()} == stance(name, engine)


def test_an_unknown_stance_is_refused() -> None:
    assert stance("approval")
    with pytest.raises(Malformed, match="low-risk"):
        stance("../approval")


def test_a_folder_loads_and_its_digest_follows_its_text(tmp_path: Path) -> None:
    for name, text in stance("low-risk").items():
        (tmp_path / name).write_text(text)
    (tmp_path / "README.md").write_text("not policy")
    first = load_folder(tmp_path)
    assert first == load(stance("low-risk"))
    assert compile_policy(first.doc, 3).version == 3
    (tmp_path / "90-more.cedar").write_text(GOOD)
    assert load_folder(tmp_path).digest != first.digest


def test_an_empty_folder_a_missing_one_and_one_without_a_permit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="empty"):
        load_folder(tmp_path)
    with pytest.raises(Malformed, match="empty"):
        load_folder(tmp_path / "missing")
    (tmp_path / "a.cedar").write_text(GOOD.replace("permit", "forbid"))
    with pytest.raises(Malformed, match="permits nothing"):
        load_folder(tmp_path)
    (tmp_path / "b.cedar").write_text(GOOD.replace("yes", "also"))
    assert load_folder(tmp_path)


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_text(GOOD)
    assert load_folder(tmp_path)
    (tmp_path / "b.cedar").write_bytes(b"\xff\xfe")
    with pytest.raises(Malformed, match="UnicodeDecodeError"):
        load_folder(tmp_path)


def test_every_problem_is_named_with_its_file_and_line() -> None:
    said = problems(
        a=f"// fine\n{GOOD}\n\npermit (principal,\n  action foo);",
        b="\n\npermit (principal, action, resource);",
    )
    assert "a.cedar:4: unexpected token" in said
    assert 'b.cedar:3: every policy needs an @id("…")' in said


def test_what_the_schema_does_not_know_is_refused_at_its_line() -> None:
    scope = 'principal, action == Stepwrit::Action::"open_step", resource'
    bad = f'@id("x") forbid ({scope}) when {{ context.origim == "a" }};'
    said = problems(a=f"{GOOD}\n\n{bad}")
    assert "a.cedar:3: x: attribute `origim` in context" in said
    assert "policy1" not in said


def test_an_optional_attribute_must_be_tested_before_it_is_read() -> None:
    rule = '@id("x") forbid (principal, action, resource) when {{ {} context.requester.issuer == "a" }};'
    assert load({"a.cedar": GOOD, "b.cedar": rule.format("context has requester &&")})
    assert "unable to guarantee safety" in problems(a=GOOD, b=rule.format(""))


def test_facts_must_be_declared_with_a_known_type() -> None:
    scope = 'principal, action == Stepwrit::Action::"open_step", resource'
    reads = f'@id("x") forbid ({scope}) when {{ context.facts has a && context.facts.a == 1 }};'
    assert load({"a.cedar": GOOD, "b.cedar": reads, "facts.json": '{"a": "Long"}'})
    with pytest.raises(Malformed, match="x:"):
        load({"a.cedar": GOOD, "b.cedar": reads, "facts.json": '{"a": "String"}'})
    for bad in ('{"a": "Float"}', '{"A": "Long"}', '{"a": 1}', "[]", "{", '{"a":"Long","a":"Bool"}'):
        with pytest.raises(Malformed, match="facts"):
            load({"a.cedar": GOOD, "facts.json": bad})


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (f"{GOOD}\n{GOOD}", "is also at a.cedar:1"),
        ('@id("A B") permit (principal, action, resource);', "needs an @id"),
        ('@id("x") @obligaton("y") permit (principal, action, resource);', "unknown annotation @obligaton"),
        ('@id("x") @verdict("maybe") @setting("s") forbid (principal, action, resource);', "@verdict"),
        (
            '@id("x") @verdict("needs_approval") @setting("s") permit (principal, action, resource);',
            "@verdict",
        ),
        ('@id("x") @verdict("needs_approval") forbid (principal, action, resource);', "@setting"),
        ('@id("x") @reason("see {context}") forbid (principal, action, resource);', "one plain sentence"),
        ('@id("x") permit (principal == ?principal, action, resource);', "a template"),
        ('@id("x") permit (principal, action == Stepwrit::Action::"nope", resource);', "unrecognized action"),
        ('@id("x") permit (principal, action, resource)', "unexpected end"),
        ('@id("x', "a.cedar:1"),
    ],
)
def test_a_bad_statement_is_refused_with_its_reason(bad: str, why: str) -> None:
    assert load({"a.cedar": GOOD})
    assert why in problems(a=bad, b=GOOD.replace("yes", "other"))


ASK = '@id("ask") @verdict("needs_approval") @setting("s") {} forbid (principal, action, resource);'


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        ('@signatures("2")', "2 signatures of 1 persons who may sign"),
        ('@signatures("two") @approvers("bob carol")', "@signatures: a number"),
        ('@signatures("0") @approvers("bob carol")', "@signatures: a number"),
        ('@signatures @approvers("bob carol")', "@signatures: a number"),
        ('@signatures("3") @approvers("bob carol")', "3 signatures of 2 persons who may sign"),
        ('@approvers("")', "@approvers: names of persons"),
        ("@approvers", "@approvers: names of persons"),
        ('@approvers("bob, carol")', "approvers: names of persons are of a-z"),
        ('@approvers("bob bob")', "none twice"),
        ('@approvers("Bob")', "approvers: names of persons are of a-z"),
        ('@requester("may not sign")', "nobody could sign"),
        ('@requester("not alone")', "nobody could sign"),
        ('@approvers("bob") @requester("never")', "requester: one of may sign, not alone, may not sign"),
        ('@approver("bob")', "unknown annotation @approver"),
    ],
)
def test_terms_of_an_approval_that_nobody_could_give_are_refused_at_load(notes: str, why: str) -> None:
    good = '@signatures("2") @approvers("bob carol") @requester("not alone")'
    assert load({"a.cedar": GOOD, "b.cedar": ASK.format(good)})
    said = problems(a=GOOD, b=f"// here\n{ASK.format(notes)}")
    assert "b.cedar:2: " in said
    assert why in said


def test_terms_belong_to_a_rule_that_asks_for_approval() -> None:
    notes = '@id("x") @approvers("bob")'
    assert load({"a.cedar": GOOD, "b.cedar": ASK.format('@approvers("bob")')})
    for effect in ("permit", "forbid"):
        said = problems(a=GOOD, b=f"{notes} {effect} (principal, action, resource);")
        assert "@approvers is for a forbid with @verdict" in said


CARE = '@id("care") @obligation("{}") permit (principal, action, resource);'


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        ("", "@obligation: `name=value`"),
        (" ; ", "@obligation: `name=value`"),
        ("max_lyfe=30", "unknown obligation 'max_lyfe'; known are max_life, fan_out, require, redact"),
        ("max_life", "obligation max_life: a whole number from 5 to 900"),
        ("max_life=4", "obligation max_life: a whole number from 5 to 900"),
        ("max_life=30 max_life=60", "obligation max_life: said twice"),
        ("fan_out=-1", "obligation fan_out: a whole number from 0 to 1000"),
        ("require=tls", "obligation require: of x509, mtls, dpop"),
        ("redact=To", "obligation redact: names of facts"),
        ("redact=to,iban", "obligation redact: iban is not declared in facts.json"),
    ],
)
def test_an_obligation_that_cannot_be_fulfilled_is_refused_at_load(notes: str, why: str) -> None:
    facts = {"facts.json": '{"to": "String"}'}
    good = CARE.format("max_life=30 require=mtls;fan_out=3; redact=to")
    assert load({"a.cedar": GOOD, "b.cedar": good, **facts})
    with pytest.raises(Malformed) as refused:
        load({"a.cedar": GOOD, "b.cedar": f"// here\n{CARE.format(notes)}", **facts})
    assert "b.cedar:2: " in refused.value.reason
    assert why in refused.value.reason


def test_an_obligation_stands_where_it_can_be_fulfilled() -> None:
    issuing = CARE.format("{}").replace("action,", 'action == Stepwrit::Action::"issue_credential",')
    assert load({"a.cedar": GOOD, "b.cedar": issuing.format("max_life=30")})
    assert "fan_out: for start_intent or open_step" in problems(a=GOOD, b=issuing.format("fan_out=3"))
    assert "@obligation is for a permit" in problems(
        a=GOOD, b=CARE.format("max_life=30").replace("permit", "forbid")
    )


DEEP = {
    "brackets": "(" * 5000 + "true" + ")" * 5000,
    "sets": "[" * 65 + "]" * 65 + " == []",
    "conjunctions": "&&".join(["true"] * 2000),
    "sums": "1" + "+1" * 300 + " == 1",
    "attributes": "context" + ".\na" * 5000,
    "presence": "context has " + ".".join(["a"] * 8000),
    "text": '"' + "a" * 20_000 + '" == ""',
}


@pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP.keys())
def test_a_rule_that_is_nested_too_deep_is_refused_and_ends_nothing(deep: str) -> None:
    rule = '@id("yes") permit (principal, action, resource) when {{ {} }};'
    assert load({"a.cedar": rule.format("(" * 30 + "true" + ")" * 30)})
    assert "a.cedar:1" in problems(a=rule.format(deep))


def test_a_stored_document_that_is_none_is_refused() -> None:
    assert compile_policy(load({"a.cedar": GOOD}).doc, 1)
    for bad in ("", "[]", "{}", '{"files": {}}'):
        with pytest.raises(Malformed):
            compile_policy(bad, 1)


def test_semicolons_and_slashes_inside_strings_and_comments_end_nothing() -> None:
    text = '// a; b\n@id("a;//b") permit (principal, action, resource); // c;\n\n@id("b") forbid (x);'
    assert [line for line, _ in statements(text)] == [2, 4]


def test_the_published_cedar_schema_is_the_packaged_one() -> None:
    packaged = ROOT / "broker/stepwrit_broker/policy/stepwrit.cedarschema"
    assert (ROOT / "docs/reference/schemas/stepwrit.cedarschema").read_text() == packaged.read_text()
    assert "type Facts = { amount?: Long };" in schema_text({"amount": "Long"})
