"""What `init` and `registry scaffold` write loads as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepwrit.digest import b64u, canonical
from stepwrit_broker.cli.scaffold import ToolInfo, scaffold_registry, schema_digest, write_init
from stepwrit_broker.config import Config, load_config
from stepwrit_broker.config_signals import ALL
from stepwrit_broker.core.errors import Conflict, Malformed
from stepwrit_broker.policy.files import load_folder, read_folder, stance
from stepwrit_broker.registry.files import load_registry
from stepwrit_broker.registry.limits_file import load_limits

ISSUER = "https://stepwrit.prod.example"


def test_what_init_writes_loads_without_an_edit(tmp_path: Path) -> None:
    written = write_init(tmp_path, "prod.example", ISSUER)
    assert {path.relative_to(tmp_path).parts[0] for path in written} == {
        "broker.toml", "registry.yaml", "limits.yaml", "policy",
    }  # fmt: skip
    config = load_config(tmp_path / "broker.toml", env={})
    assert (config.trust_domain, config.issuer) == ("prod.example", ISSUER)
    assert config.broker_id == "spiffe://prod.example/stepwrit/broker"
    _, registry = load_registry(config.files.registry.read_text(), name="registry.yaml")
    assert [entry.role for entry in registry.entries] == ["broker"]
    _, limits = load_limits(config.files.limits.read_text(), name="limits.yaml")
    assert {each.on for each in limits.rates} == {"intents", "steps", "credentials", "questions"}
    assert load_folder(config.files.policy)


def test_the_example_of_a_person_loads_once_it_is_no_comment(tmp_path: Path) -> None:
    write_init(tmp_path, "prod.example", ISSUER)
    text = (tmp_path / "registry.yaml").read_text()
    assert not load_registry(text, name="registry")[1].emails
    start = text.index("# persons:")
    shown, rest = text[start:].split("\n\n", 1)
    used = text[:start] + shown.replace("# ", "", 1).replace("\n# ", "\n") + "\n\n" + rest
    assert load_registry(used, name="registry")[1].emails == {"bob": "bob@corp.example"}


def test_init_writes_rego_for_opa_and_never_beside_cedar(tmp_path: Path) -> None:
    for name in ("approval", "low-risk", "workflow"):
        write_init(tmp_path / name, "prod.example", ISSUER, stance_name=name, engine="opa")
        assert read_folder(tmp_path / name / "policy") == stance(name, "opa")
        assert load_folder(tmp_path / name / "policy")
    write_init(tmp_path / "approval", "prod.example", ISSUER, engine="opa", force=True)
    with pytest.raises(Conflict, match="for another engine"):
        write_init(tmp_path / "approval", "prod.example", ISSUER, force=True)
    with pytest.raises(Malformed, match="cedar, opa"):
        write_init(tmp_path / "other", "prod.example", ISSUER, engine="prolog")


def test_the_settings_that_are_shown_are_the_defaults(tmp_path: Path) -> None:
    write_init(tmp_path, "prod.example", ISSUER)
    plain = load_config(tmp_path / "broker.toml", env={})
    text = (tmp_path / "broker.toml").read_text()
    shown = re.sub(r"(?m)^# (\[\[[a-z]+\]\]|[a-z_]+ = )", r"\1", text)
    (tmp_path / "broker.toml").write_text(shown)
    full = load_config(tmp_path / "broker.toml", env={})
    assert full.oidc[0].issuer == "https://idp.example"
    assert (full.federation[0].trust_domain, full.federation[0].ca_file) == ("partner.example", Path())
    assert full.signals[0].events == ALL
    assert full.witness[0].url == "https://witness.example/w1"
    lists = ("oidc", "federation", "webhook", "signals", "witness")
    assert Config(**{each: getattr(full, each) for each in Config.__slots__ if each not in lists}) == plain


def test_the_examples_in_the_registry_load_when_they_are_taken_in(tmp_path: Path) -> None:
    write_init(tmp_path, "prod.example", ISSUER)
    text = (tmp_path / "registry.yaml").read_text()
    head, body = text.split("    name: stepwrit\n")
    taken = re.sub(r"(?m)^  # (  |- )", r"  \1", body).replace("count: 1", "count: 7")
    _, registry = load_registry(f"{head}    name: stepwrit\n{taken}", name="registry.yaml")
    assert [entry.name for entry in registry.entries] == [
        "stepwrit",
        "ledger",
        "bank",
        "chat",
        "nightly",
        "edge",
        "alice",
    ]


def test_init_overwrites_nothing_unless_told_to(tmp_path: Path) -> None:
    write_init(tmp_path / "new", "prod.example", ISSUER)
    (tmp_path / "limits.yaml").write_text("mine")
    with pytest.raises(Conflict, match=r"limits\.yaml: already there; nothing was written"):
        write_init(tmp_path, "prod.example", ISSUER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["limits.yaml", "new"]
    assert (tmp_path / "limits.yaml").read_text() == "mine"
    write_init(tmp_path, "prod.example", ISSUER, force=True)
    assert (tmp_path / "limits.yaml").read_text() != "mine"


@pytest.mark.parametrize(
    ("trust_domain", "issuer", "stance_name"),
    [
        ("Prod.example", ISSUER, "approval"),
        ('prod.example"\nissuer = "x', ISSUER, "approval"),
        ("prod.example", "http://stepwrit.prod.example", "approval"),
        ("prod.example", ISSUER, "none"),
    ],
)
def test_init_with_a_wrong_word_writes_nothing(
    tmp_path: Path, trust_domain: str, issuer: str, stance_name: str
) -> None:
    write_init(tmp_path / "good", "prod.example", ISSUER, stance_name="low-risk")
    with pytest.raises(Malformed):
        write_init(tmp_path / "bad", trust_domain, issuer, stance_name=stance_name)
    assert not (tmp_path / "bad").exists()


def test_a_scaffolded_server_has_every_tool_at_high_impact_with_its_schema() -> None:
    tools = [
        ToolInfo(name="transfer", input_schema={"type": "object", "properties": {}}),
        ToolInfo(name="no"),
    ]
    text = scaffold_registry(
        tools, server_id="spiffe://prod.example/ledger", name="ledger", url="https://ledger.example/mcp"
    )
    _, registry = load_registry(f"version: 1\nentries:\n{text}count: 1\n", name="r")
    server = registry.server("ledger")
    assert server is not None
    assert set(server.tools) == {"transfer", "no"}
    assert {tool.impact for tool in server.tools.values()} == {"high"}
    assert all(not tool.plan and not tool.is_self for tool in server.tools.values())
    assert server.tools["transfer"].schema == schema_digest({"properties": {}, "type": "object"})
    assert scaffold_registry([], server_id="spiffe://prod.example/ledger", name="ledger")


@pytest.mark.parametrize(
    "wrong",
    [
        {"server_id": "spiffe://prod.example"},
        {"name": "Ledger"},
        {"name": "ledger\nrole: operator"},
        {"url": "https://ledger.example/mcp#x"},
        {"tools": [ToolInfo(name="a/b")]},
        {"tools": [ToolInfo(name='x": {impact: low}, "y')]},
        {"tools": [ToolInfo(name="x"), ToolInfo(name="x")]},
        {"tools": [ToolInfo(name="x", input_schema={"maximum": 2**60})]},
    ],
)
def test_a_server_with_names_that_do_not_fit_is_not_scaffolded(wrong: dict[str, object]) -> None:
    good: dict[str, object] = {"tools": [], "server_id": "spiffe://prod.example/ledger", "name": "ledger"}
    assert scaffold_registry(**good)  # type: ignore[arg-type]
    with pytest.raises(Malformed):
        scaffold_registry(**{**good, **wrong})  # type: ignore[arg-type]


def test_the_schema_digest_is_of_the_canonical_schema() -> None:
    import hashlib

    schema = {"b": 1, "a": "ä"}
    assert schema_digest(schema) == "sha256-" + b64u(hashlib.sha256('{"a":"ä","b":1}'.encode()).digest())
    assert canonical(schema)


def test_init_takes_the_approval_stance(tmp_path: Path) -> None:
    write_init(tmp_path, "prod.example", ISSUER)
    assert {path.name: path.read_text() for path in (tmp_path / "policy").iterdir()} == stance("approval")
