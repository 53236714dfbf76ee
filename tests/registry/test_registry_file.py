"""registry.yaml: what it means, and that a file with a problem changes nothing and says all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tests.registry.files import REGISTRY

from stepwrit.wire import PlanItem
from stepwrit_broker.core.ceiling import Ceiling
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.registry import Client
from stepwrit_broker.core.workload import parse_spiffe_id
from stepwrit_broker.registry.files import compile_registry, load_registry
from stepwrit_broker.registry.shape import schema_text

ROOT = Path(__file__).parents[2]


def problems(text: str) -> list[str]:
    """Each problem as `line:column: what`; the untouched file has none."""
    load_registry(REGISTRY, name="registry.yaml")
    with pytest.raises(Malformed) as refused:
        load_registry(text, name="registry.yaml")
    return [line.removeprefix("registry.yaml:") for line in refused.value.reason.split("\n")]


def changed(old: str, new: str) -> list[str]:
    assert old in REGISTRY
    return problems(REGISTRY.replace(old, new, 1))


def test_the_file_means_what_it_says() -> None:
    stored, registry = load_registry(REGISTRY, name="registry.yaml")
    ledger = registry.server("https://ledger.example/mcp/")
    assert ledger is not None
    assert ledger is registry.server("ledger")
    transfer = ledger.tools["transfer"]
    assert (transfer.name, transfer.impact, transfer.facts) == (
        "ledger/transfer",
        "high",
        (("amount", "/amount"),),
    )
    assert transfer.plan == (PlanItem(at="https://bank.example", method="POST", path="/v1/transfers"),)
    assert ledger.tools["list_transfers"].plan[0].times == 20
    assert ledger.tools["list_transfers"].plan[0].query == ("page",)
    assert ledger.tools["whoami"].is_self
    assert registry.redeems(parse_spiffe_id("spiffe://prod.example/bank"), "https://bank.example")
    chat = registry.entry_for(parse_spiffe_id("spiffe://prod.example/agent/chat"))
    assert chat is not None
    assert (chat.max_auth_age_s, chat.clients) == (
        1800.0,
        (Client(issuer="https://idp.example", client_id="chat-app"),),
    )
    assert registry.digest == stored.digest


def test_who_says_nothing_may_start_nothing() -> None:
    _, registry = load_registry(REGISTRY, name="r")
    audit = registry.server("audit")
    assert audit is not None
    assert audit.may_start == Ceiling(tools=frozenset(), impact="low")
    bank = registry.resource("https://bank.example")
    assert bank is not None
    assert bank.may_start is None


def test_a_stored_document_compiles_to_the_same_registry_and_comments_do_not_count() -> None:
    stored, registry = load_registry(REGISTRY, name="r")
    again = compile_registry(stored.doc, 4)
    assert (again.version, again.entries, again.digest) == (4, registry.entries, registry.digest)
    assert load_registry("# note\n" + REGISTRY, name="r")[0] == stored
    for bad in ("", "[]", "{}", stored.doc.replace('"count":6', '"count":5')):
        with pytest.raises(Malformed):
            compile_registry(bad, 1)


def test_the_packaged_schema_is_the_published_one() -> None:
    for name in ("registry", "limits", "scenarios"):
        published = (ROOT / "docs/reference/schemas" / f"{name}.schema.json").read_text()
        assert schema_text(name) == published
        Draft202012Validator.check_schema(json.loads(published))


def test_all_problems_are_named_each_at_its_place() -> None:
    said = problems(
        REGISTRY.replace("impact: high\n", "impact: huge\n", 1)
        .replace("name: bank", "name: Bank")
        .replace("may_start: {tools: [audit/*", "may_strat: {tools: [audit/*")
    )
    assert said == [
        "10:9: entries[0].tools.transfer.impact: must be one of low, medium, high",
        "18:5: entries[0].may_strat: is not known here; did you mean may_start?",
        "25:54: entries[2].name: must be a short name of a-z 0-9 . _ -",
    ]


@pytest.mark.parametrize("keep", range(4, REGISTRY.count("\n")))
def test_a_file_that_was_cut_off_cannot_pass(keep: int) -> None:
    problems("".join(REGISTRY.splitlines(keepends=True)[:keep]))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("count: 6", "count: 5", "count: says 5, but there are 6 entries"),
        ("count: 6", "", "needs count"),
        ("version: 1\n", "version: 2\n", "version: must be 1"),
        ("    role: mcp-server\n", "    role: wizard\n", "entries[0].role: must be one of agent"),
        ("    role: mcp-server\n", "", "entries[0]: needs role"),
        ("    owner: ops@prod.example\n", "", "entries[4]: needs owner"),
        ("name: bank,", "name: bank, url: https://bank.example,", "entries[2].url: does not belong here"),
        ("name: chat", "name: ledger", "entries[3].name: the same name is in entry 0"),
        ("name: chat", "name: client", "entries[3].name: client is a reserved name"),
        ("    mode: require", "    mode: observe", "entries[0].mode: must be one of require"),
        ("    without_step: refuse", "    without_step: root", "must be one of refuse"),
        ("impact: low, plan: self", "impact: medium, plan: self, without_step: root",
         "whoami.without_step: root is for tools of low impact; this one's is medium"),
        ("impact: low, plan: self", "impact: low, without_step: yes", "must be one of refuse, root"),
        ("max_auth_age: 30m", "max_auth_age: 1800", "max_auth_age: must be text"),
        ("max_auth_age: 30m", "max_auth_age: 30 minutes", "must be a duration such as 1h"),
        ("max_auth_age: 30m", "max_auth_age: 2d", "must be at most 24h"),
        ("impact: low, plan: self", "impact: low, plan: own", "plan: must be self"),
        ("times: 1}", "times: 0}", "times: must be at least 1"),
        ("facts: {amount: /amount}", "facts: {amount: amount}", "must be a JSON pointer such as /amount"),
        ("facts: {amount: /amount}", "facts: {Amount: /amount}", "facts.Amount: must be a name of a-z 0-9 _"),
        ("schema: sha256-AAA", "schema: sha256-", "schema: must be sha256- and"),
        ("https://bank.example, request: \"P", "https://other.example, request: \"P", "is not the audience"),
        ("POST /v1/transfers", "POST /v1/../transfers", "request: segments are literal"),
        ("POST /v1/transfers", "POST /v1//transfers", "request: segments are literal"),
        ("POST /v1/transfers", "POST /v1/x{id}", "request: segments are literal"),
        ("POST /v1/transfers", "POST /v1/%7Etransfers", "request: segments are literal"),
        ("POST /v1/transfers", "POST /v1/transfers?x=1", "request: must be a request such as"),
        ("POST /v1/transfers", "post /v1/transfers", "request: must be a request such as"),
        ("[\"ledger/*\"]", "[\"*\"]", "must be server/tool or server/*"),
        ("[\"ledger/*\"]", "[\"lodger/*\"]", "there is no mcp-server named lodger"),
        ("[\"ledger/*\"]", "[\"bank/*\"]", "there is no mcp-server named bank"),
        ("ledger/list_transfers]", "ledger/list]", "ledger has no tool list"),
        ("audience: https://bank.example", "audience: https://bank.example/", "is not a normalised URL"),
        ("audience: https://bank.example", "audience: https://Bank.example", "is not a normalised URL"),
        ("audience: https://bank.example", "audience: https://u@bank.example", "is not a normalised URL"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused_with_its_reason(old: str, new: str, said: str) -> None:
    assert any(said in line for line in changed(old, new)), changed(old, new)


@pytest.mark.parametrize(
    "bad",
    [
        "spiffe://Prod.example/cron",
        "spiffe://prod.example",
        "spiffe://prod.example/",
        "spiffe://prod.example/a//b",
        "spiffe://prod.example/a/../b",
        "spiffe://prod.example/a*",
        "spiffe://prod.example/*/b",
        "https://prod.example/a",
    ],
)
def test_an_id_that_is_no_spiffe_id_or_pattern_is_refused(bad: str) -> None:
    assert any("entries[4].id" in line for line in changed("spiffe://prod.example/cron", bad))


def test_one_id_has_one_role() -> None:
    twice = changed("spiffe://prod.example/alice", "spiffe://prod.example/cron")
    assert twice == ["37:6: entries[5].id: is already entry 4"]
    crossing = changed("spiffe://prod.example/cron", "spiffe://prod.example/ns/audit/x/cron")
    assert crossing == [
        "32:5: entries[4].id: has role trigger, but spiffe://prod.example/ns/audit/* covers it as mcp-server"
    ]
    wider = changed("spiffe://prod.example/alice", "spiffe://prod.example/*")
    assert len(wider) == 5, "every entry of another role under the pattern is named"


def test_patterns_of_one_role_may_nest_and_a_sibling_with_the_same_beginning_is_no_overlap() -> None:
    nested = REGISTRY.replace(
        "spiffe://prod.example/ns/pay/sa/ledger-mcp", "spiffe://prod.example/ns/audit/ledger"
    )
    assert load_registry(nested, name="r")
    sibling = REGISTRY.replace("spiffe://prod.example/cron", "spiffe://prod.example/ns/audits")
    assert load_registry(sibling, name="r")
    itself = REGISTRY.replace("spiffe://prod.example/cron", "spiffe://prod.example/ns/audit")
    assert load_registry(itself, name="r")


def test_a_tenant_reaches_only_its_own_tools_and_resources() -> None:
    said = changed("name: bank,", "name: bank, tenant: other,")
    assert len(said) == 2
    assert all("is not the audience of a resource in tenant default" in line for line in said)
    said = changed("    name: audit\n", "    name: audit\n    tenant: other\n")
    assert said == [
        "18:25: entries[0].may_start.tools[0]: there is no mcp-server named audit in tenant default"
    ]


def test_a_client_and_a_url_belong_to_one_entry() -> None:
    more = (
        "  - {id: spiffe://prod.example/agent/two, role: agent, name: two, "
        "may_start: {tools: [], impact: low}, "
        "clients: [{issuer: https://idp.example, client_id: chat-app}]}\n"
    )
    said = problems(REGISTRY.replace("count: 6", f"{more}count: 7"))
    assert said[0].endswith("entries[6].clients[0]: the same client is in entry 3")
    same = changed("    name: audit\n", "    name: audit\n    url: https://ledger.example/mcp/\n")
    assert same[0].endswith("entries[1].url: the same url is in entry 0")


def test_count_must_close_the_file() -> None:
    assert problems("count: 6\n" + REGISTRY.replace("count: 6\n", "")) == [
        "1:1: count: must be the last line of the file"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: the file is empty"),
        ("version: 1\nversion: 1\n", "2:1: 'version' is named twice"),
        ("a: &x 1\n", "1:4: anchors and aliases are not taken"),
        ("a: *x\n", "1:4: anchors and aliases are not taken"),
        ("a: !!python/object:os.system {}\n", "1:4: tags are not taken"),
        ("a: !x y\n", "1:4: tags are not taken"),
        ("a: 1\n---\nb: 2\n", "2:1: but found another document"),
        ("a: [1\n", "2:1: "),
        ("? [a]\n: b\n", "1:3: a key must be a word"),
        ("a: 99999999999999999999\n", "1:4: the number is too long"),
        ("[" * 40 + "]" * 40, "nested too deep"),
        ("- a\n", "1:1: must be a mapping"),
        ("version: 1\nentries: []\ncount: yes\n", "3:1: count: must be a whole number"),
    ],
)
def test_yaml_with_more_than_one_meaning_is_refused(text: str, said: str) -> None:
    assert said in "\n".join(problems(text))


def test_characters_that_yaml_forbids_are_refused() -> None:
    with pytest.raises(Malformed, match="characters that YAML does not allow"):
        load_registry("a: \x00", name="r")


def test_a_foreign_trust_domain_must_be_named() -> None:
    foreign = changed("spiffe://prod.example/alice", "spiffe://partner.example/alice")
    said = "is of trust domain partner.example, not prod.example: a foreign one must stand in trust_domains"
    assert foreign == [f"37:6: entries[5].id: {said}"]
    text = REGISTRY.replace("spiffe://prod.example/alice", "spiffe://partner.example/alice").replace(
        "tenant: default\n", "tenant: default\ntrust_domains: [partner.example]\n"
    )
    _, registry = load_registry(text, name="registry.yaml")
    assert registry.trust_domains == {"partner.example"}


def test_a_bearer_is_admitted_entry_by_entry_and_never_for_roles_that_operate_or_redeem() -> None:
    _, registry = load_registry(REGISTRY.replace("max_auth_age: 30m", "attest: [jwt]"), name="registry.yaml")
    assert {entry.name: set(entry.attest) for entry in registry.entries}["chat"] == {"jwt"}
    assert {entry.name: set(entry.attest) for entry in registry.entries}["ledger"] == {"x509"}
    for line in ("name: alice", "name: bank"):
        assert changed(line, f"{line}, attest: [jwt]"), line


def test_a_tool_of_low_impact_may_be_called_without_a_step_and_the_line_is_named_where_it_may_not() -> None:
    _, registry = load_registry(REGISTRY.replace("plan: self}", "plan: self, without_step: root}"), name="r")
    server = registry.server("ledger")
    assert server is not None
    assert {name for name, tool in server.tools.items() if tool.may_be_root} == {"whoami"}
    bad = REGISTRY.replace("{impact: low, plan: self}", "{impact: high, plan: self, without_step: root}")
    line = 1 + bad[: bad.index("without_step: root")].count("\n")
    with pytest.raises(Malformed, match=f"r:{line}:"):
        load_registry(bad, name="r")
