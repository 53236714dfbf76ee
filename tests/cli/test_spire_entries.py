"""`stepwrit spire entries`: what is printed runs in a real shell, whole or not at all."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli

HOME = "spiffe://prod.example"
REGISTRY = """\
version: 1
tenant: default
trust_domains: [partner.example]
entries:
  - {id: spiffe://prod.example/stepwrit/broker, role: broker, name: stepwrit}
  - {id: spiffe://prod.example/ledger-mcp, role: mcp-server, name: ledger, tools: {note: {impact: low}}}
  - {id: spiffe://prod.example/ns/audit/*, role: mcp-server, name: audit, tools: {note: {impact: low}}}
  - id: spiffe://prod.example/agent/chat
    role: agent
    name: chat
    attest: [x509, jwt]
    may_start: {tools: [], impact: low}
  - {id: spiffe://partner.example/agent/desk, role: agent, name: desk, may_start: {tools: [], impact: low}}
count: 5
"""
FETCHED = """
[[federation]]
trust_domain = "partner.example"
url = "https://spiffe.partner.example/bundle.json"
profile = "https_web"
"""
RECORDER = '#!/bin/sh\nprintf "%s\\0" "$@" >> "$RECORD"; printf "\\n" >> "$RECORD"\n'
PARENT = ("--parent-id", f"{HOME}/node/a")
SELECTORS = {"broker": "unix:user:stepwrit", "ledger": "unix:user:ledger", "chat": "unix:user:chat"}
ALL = (*PARENT, *(word for name, each in SELECTORS.items() for word in ("--selector", f"{name}={each}")))


@pytest.fixture
def etc(cli: Cli, tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    issuer = ("--issuer", "https://stepwrit.prod.example:8444")
    assert cli("init", folder, "--trust-domain", "prod.example", *issuer).exit_code == 0
    (folder / "registry.yaml").write_text(REGISTRY)
    return folder / "broker.toml"


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], list[list[str]]]:
    """Runs a script; the arguments of each `spire-server` in it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "spire-server").write_text(RECORDER)
    (tmp_path / "bin" / "spire-server").chmod(0o700)

    def run(script: str) -> list[list[str]]:
        record = tmp_path / "record"
        record.write_bytes(b"")
        env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "RECORD": str(record)}
        subprocess.run(["sh", "-eu"], input=script, text=True, env=env, cwd=tmp_path, check=True)
        return [line.removesuffix("\0").split("\0") for line in record.read_text().splitlines()]

    return run


def flags(arguments: list[str]) -> dict[str, list[str]]:
    """`entry create -a x -b` as {a: [x], b: []}."""
    found: dict[str, list[str]] = {}
    latest: list[str] = []
    for word in arguments[2:]:
        if word.startswith("-"):
            latest = found.setdefault(word[1:], [])
        else:
            latest.append(word)
    return found


def shown(entry: dict[str, Any], **other: object) -> dict[str, Any]:
    """An entry of `-data` as `entry show -output json` shows it."""
    domain, _, path = entry["spiffe_id"].removeprefix("spiffe://").partition("/")
    parent_domain, _, parent = entry["parent_id"].removeprefix("spiffe://").partition("/")
    return {
        "id": f"id-{path}",
        "spiffe_id": {"trust_domain": domain, "path": f"/{path}"},
        "parent_id": {"trust_domain": parent_domain, "path": f"/{parent}"},
        "selectors": entry["selectors"],
        "x509_svid_ttl": entry.get("x509_svid_ttl", 0),
        "jwt_svid_ttl": entry.get("jwt_svid_ttl", 0),
        "federates_with": [each.removeprefix("spiffe://") for each in entry.get("federates_with", ())],
        "additional_attributes": entry.get("additional_attributes"),
        "hint": "",
        "admin": False,
        "expires_at": "0",
        "created_at": "1783000000",
        "revision_number": "0",
        "dns_names": [],
        **other,
    }


def test_the_commands_run_in_a_shell_and_register_what_is_needed(
    cli: Cli, etc: Path, shell: Callable[[str], list[list[str]]]
):
    result = cli("spire", "entries", "--config", etc, *ALL)
    assert result.exit_code == 0
    assert result.stderr == ""
    ran = shell(result.stdout)
    assert [each[:2] for each in ran] == [["entry", "create"]] * 3
    broker, ledger, chat = map(flags, ran)
    assert broker == {
        "parentID": [f"{HOME}/node/a"],
        "spiffeID": [f"{HOME}/stepwrit/broker"],
        "selector": ["unix:user:stepwrit"],
        "x509SVIDTTL": ["3600"],
        "federatesWith": ["spiffe://partner.example"],
    }
    assert ledger["spiffeID"] == [f"{HOME}/ledger-mcp"]
    assert "jwtSVIDTTL" not in ledger
    assert chat["jwtSVIDTTL"] == ["300"]
    assert "jwtSVIDIncludeJTI" not in chat
    with_jti = map(flags, shell(cli("spire", "entries", "--config", etc, *ALL, "--jti").stdout))
    assert ["jwtSVIDIncludeJTI" in each for each in with_jti] == [False, False, True]


def test_what_cannot_be_registered_here_is_a_comment_that_says_where(cli: Cli, etc: Path):
    text = cli("spire", "entries", "--config", etc, *ALL).stdout
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert any("desk" in line and "register it in trust domain partner.example" in line for line in comments)
    assert any("audit" in line and "one entry for each workload below it" in line for line in comments)
    assert "#   spire-server bundle list -id spiffe://partner.example" in comments


def test_what_is_unfinished_never_runs_and_is_exit_code_2(
    cli: Cli, etc: Path, shell: Callable[[str], list[list[str]]]
):
    part = (*PARENT, "--selector", "broker=unix:user:stepwrit")
    result = cli("spire", "entries", "--config", etc, *part)
    assert result.exit_code == 2
    assert "2 of 3 entries" in result.stderr
    assert "--selector chat=TYPE:VALUE" in result.stderr
    assert "# UNFINISHED, give --selector chat=TYPE:VALUE" in result.stdout
    assert [flags(each)["spiffeID"] for each in shell(result.stdout)] == [[f"{HOME}/stepwrit/broker"]]
    nothing = cli("spire", "entries", "--config", etc)
    assert nothing.exit_code == 2
    assert shell(nothing.stdout) == []
    said = json.loads(cli("spire", "entries", "--config", etc, *part, "--json").stdout)
    assert [each["spiffe_id"] for each in said["entries"]] == [f"{HOME}/stepwrit/broker"]
    assert {each["name"] for each in said["unfinished"]} == {"ledger", "chat"}


def test_words_that_a_shell_would_obey_are_quoted(
    cli: Cli, etc: Path, shell: Callable[[str], list[list[str]]], tmp_path: Path
):
    evil = "unix:path:/opt/a b'; touch owned; $(touch owned) #"
    result = cli("spire", "entries", "--config", etc, *ALL, "--selector", f"chat={evil}")
    assert flags(shell(result.stdout)[2])["selector"] == ["unix:user:chat", evil]
    assert not (tmp_path / "owned").exists()


def test_json_is_what_spire_reads(cli: Cli, etc: Path):
    result = cli("spire", "entries", "--config", etc, *ALL, "--jti", "--json")
    said = json.loads(result.stdout)
    assert said["unfinished"] == []
    assert said["entries"][2] == {
        "spiffe_id": f"{HOME}/agent/chat",
        "parent_id": f"{HOME}/node/a",
        "selectors": [{"type": "unix", "value": "user:chat"}],
        "x509_svid_ttl": 3600,
        "jwt_svid_ttl": 300,
        "additional_attributes": {"jwt_svid_include_jti": True},
    }


def test_have_names_what_is_missing_and_what_differs(
    cli: Cli, etc: Path, tmp_path: Path, shell: Callable[[str], list[list[str]]]
):
    entries = json.loads(cli("spire", "entries", "--config", etc, *ALL, "--json").stdout)["entries"]
    have = tmp_path / "have.json"

    def asked(*shown_entries: dict[str, Any], told: tuple[str, ...] = ()) -> Any:
        have.write_text(json.dumps({"entries": shown_entries, "next_page_token": ""}))
        return cli("spire", "entries", "--config", etc, "--have", have, *told)

    broker, ledger, chat = map(shown, entries)
    for told in ((), ALL):
        good = asked(broker, ledger, chat, told=told)
        assert (good.exit_code, shell(good.stdout)) == (0, [])
        assert good.stdout.startswith("# Nothing is missing, nothing differs.\n")
    without = asked(broker, chat)
    assert without.exit_code == 1
    assert "# ledger: mcp-server" in without.stdout
    assert "chat" not in without.stdout
    lame = {**broker, "federates_with": [], "hint": "it's", "dns_names": ["a.example"]}
    updated = asked(lame, ledger, {**chat, "jwt_svid_ttl": 3600}, told=ALL)
    assert updated.exit_code == 1
    assert "# it does not federate with partner.example" in updated.stdout
    assert "its JWT-SVIDs live 3600 s, at most 300 are wanted: the broker refuses them" in updated.stdout
    ran = shell(updated.stdout)
    assert [each[:2] for each in ran] == [["entry", "update"]] * 2
    assert flags(ran[0]) == {
        "entryID": ["id-stepwrit/broker"],
        "parentID": [f"{HOME}/node/a"],
        "spiffeID": [f"{HOME}/stepwrit/broker"],
        "selector": ["unix:user:stepwrit"],
        "x509SVIDTTL": ["3600"],
        "federatesWith": ["spiffe://partner.example"],
        "dns": ["a.example"],
        "hint": ["it's"],
    }
    assert flags(ran[1])["jwtSVIDTTL"] == ["300"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"x509_svid_ttl": 86400}, "its X.509-SVIDs live 86400 s"),
        ({"additional_attributes": None}, "have no jti"),
        ({"admin": True}, "powers over the SPIRE server"),
        ({"selectors": [{"type": "unix", "value": "uid:0"}]}, "its selectors are unix:uid:0"),
        ({"parent_id": {"trust_domain": "prod.example", "path": "/node/b"}}, "its parent is"),
        ({"expires_at": "1500000000"}, "entry create"),
        ({"selectors": [{"type": "unix", "value": "user:\nrm -rf /"}]}, "user:?rm"),
    ],
)
def test_each_difference_is_told(cli: Cli, etc: Path, tmp_path: Path, change: dict[str, Any], fault: str):
    entries = json.loads(cli("spire", "entries", "--config", etc, *ALL, "--jti", "--json").stdout)["entries"]
    have, command = tmp_path / "have.json", ("spire", "entries", "--config", etc, *ALL, "--jti", "--have")
    have.write_text(json.dumps({"entries": [shown(each) for each in entries]}))
    assert cli(*command, have).exit_code == 0
    have.write_text(json.dumps({"entries": [*map(shown, entries[:2]), {**shown(entries[2]), **change}]}))
    result = cli(*command, have)
    assert result.exit_code == 1
    assert fault in result.stdout
    assert json.loads(cli(*command, have, "--json").stdout)["unfinished"] == []


@pytest.mark.parametrize(
    ("parent", "selector", "why"),
    [
        (f"{HOME}/spire/agent/x509pop/1", f"spiffe_id:{HOME}/spire/agent/x509pop/1", None),
        (f"{HOME}/spire/server", "x509pop:ca:fingerprint:0b", None),
        (f"{HOME}/spire/server", f"spiffe_id:{HOME}/spire/agent/x509pop/1", "make it anew"),
        (None, "", "spire-server agent list"),
    ],
)
def test_a_parent_that_no_agent_can_be_is_noted(
    cli: Cli, etc: Path, tmp_path: Path, parent: str | None, selector: str, why: str | None
):
    entries = json.loads(cli("spire", "entries", "--config", etc, *ALL, "--json").stdout)["entries"]
    kind, _, value = selector.partition(":")
    node = {"spiffe_id": f"{HOME}/node/a", "parent_id": parent, "selectors": [{"type": kind, "value": value}]}
    have = tmp_path / "have.json"
    have.write_text(json.dumps({"entries": [*map(shown, entries), *([shown(node)] if parent else [])]}))
    command = ("spire", "entries", "--config", etc, "--have", have)
    result = cli(*command)
    assert (result.exit_code, "entry create" in result.stdout) == (0, False)
    notes = json.loads(cli(*command, "--json").stdout)["notes"]
    if why is None:
        assert notes == []
    else:
        [note] = notes
        assert note.startswith(f"no agent gives out what is registered below {HOME}/node/a: ")
        assert why in note
        assert note in result.stderr


def test_an_entry_below_an_agent_itself_needs_no_alias(cli: Cli, etc: Path, tmp_path: Path):
    told = tuple(word.replace("/node/a", "/spire/agent/join_token/1") for word in ALL)
    entries = json.loads(cli("spire", "entries", "--config", etc, *told, "--json").stdout)["entries"]
    have = tmp_path / "have.json"
    have.write_text(json.dumps({"entries": [*map(shown, entries)]}))
    said = json.loads(cli("spire", "entries", "--config", etc, "--have", have, "--json").stdout)
    assert (said["unfinished"], said["notes"]) == ([], [])


def test_the_hint_of_broker_toml_is_the_brokers_hint(cli: Cli, etc: Path, tmp_path: Path):
    command, have = ("spire", "entries", "--config", etc, *ALL), tmp_path / "have.json"
    before = json.loads(cli(*command, "--json").stdout)["entries"]
    assert {each.get("hint") for each in before} == {None}
    etc.write_text('spiffe_hint = "stepwrit"\n' + etc.read_text())
    after = json.loads(cli(*command, "--json").stdout)["entries"]
    assert [each.get("hint") for each in after] == ["stepwrit", None, None]
    have.write_text(json.dumps({"entries": [*map(shown, before)]}))
    result = cli(*command, "--have", have)
    assert result.exit_code == 1
    assert "its hint is '', spiffe_hint in broker.toml is 'stepwrit'" in result.stdout
    assert "-hint stepwrit" in result.stdout


def test_the_same_workload_on_two_nodes_is_judged_twice_and_moved_never(cli: Cli, etc: Path, tmp_path: Path):
    entries = json.loads(cli("spire", "entries", "--config", etc, *ALL, "--json").stdout)["entries"]
    other = {"trust_domain": "prod.example", "path": "/node/b"}
    twin = shown(entries[2], id="twin", parent_id=other)
    have, command = tmp_path / "have.json", ("spire", "entries", "--config", etc, *ALL, "--have")
    have.write_text(json.dumps({"entries": [*map(shown, entries), twin]}))
    assert cli(*command, have).exit_code == 0
    have.write_text(json.dumps({"entries": [*map(shown, entries), {**twin, "jwt_svid_ttl": 900}]}))
    said = json.loads(cli(*command, have, "--json").stdout)
    assert [each["entry_id"] for each in said["updates"]] == ["twin"]
    assert said["updates"][0]["parent_id"] == f"{HOME}/node/b"


def test_two_workloads_with_one_selector_are_noted(cli: Cli, etc: Path):
    assert cli("spire", "entries", "--config", etc, *ALL).stderr == ""
    part = (*PARENT, *("--selector", "broker=unix:uid:1000", "--selector", "chat=unix:uid:1000"))
    result = cli("spire", "entries", "--config", etc, *part, "--selector", "chat=unix:path:/opt/chat")
    assert "whatever chat selects has the ID of broker too" in result.stderr
    assert "ID of chat" not in result.stderr


def test_a_partner_whose_bundle_the_broker_fetches_itself_needs_no_entry(cli: Cli, etc: Path):
    command = ("spire", "entries", "--config", etc, *ALL, "--json")
    assert json.loads(cli(*command).stdout)["bundles"] == ["partner.example"]
    etc.write_text(f"{etc.read_text()}{FETCHED}")
    said = json.loads(cli(*command).stdout)
    assert (said["bundles"], said["entries"][0].get("federates_with")) == ([], None)


def test_a_proxy_that_broker_toml_names_is_needed_too(cli: Cli, etc: Path):
    command = ("spire", "entries", "--config", etc, *ALL)
    assert len(json.loads(cli(*command, "--json").stdout)["entries"]) == 3
    proxy = f'[proxy]\nid = "{HOME}/proxy"\nsource = "client-cert"\n'
    url = '[listen]\nmtls_url = "https://stepwrit.prod.example"\n'
    etc.write_text(etc.read_text().replace("[proxy]\n", proxy).replace("[listen]\n", url))
    said = json.loads(cli(*command, "--selector", "proxy=unix:user:haproxy", "--json").stdout)
    assert [each["spiffe_id"] for each in said["entries"]][1] == f"{HOME}/proxy"
    assert said["entries"][1]["federates_with"] == ["spiffe://partner.example"]


def test_the_broker_goes_by_any_of_its_names(cli: Cli, etc: Path):
    for name in ("broker", "stepwrit", f"{HOME}/stepwrit/broker"):
        given = ("--selector", f"{name}=unix:user:stepwrit")
        said = json.loads(cli("spire", "entries", "--config", etc, *PARENT, *given, "--json").stdout)
        assert [each["spiffe_id"] for each in said["entries"]] == [f"{HOME}/stepwrit/broker"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--selector", "chad=unix:uid:1"), "did you mean chat?"),
        (("--selector", "desk=unix:uid:1"), "nothing to register is called"),
        (("--selector", "chat"), "use NAME=TYPE:VALUE"),
        (("--selector", "chat=unix:"), "use NAME=TYPE:VALUE"),
        (("--selector", "chat=unix:uid:1\n2"), "use NAME=TYPE:VALUE"),
        (("--parent-id", "spiffe://partner.example/node"), "not in trust domain prod.example"),
        (("--parent-id", "node"), "scheme is not spiffe"),
        (("--jwt-ttl", "301"), "less than or equal to 300"),
    ],
)
def test_what_fits_nothing_is_wrong_usage(cli: Cli, etc: Path, given: tuple[str, ...], said: str):
    assert cli("spire", "entries", "--config", etc, *ALL).exit_code == 0
    result = cli("spire", "entries", "--config", etc, *given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"entries": [{"id": "x"}]}', '{"entries": 5}'])
def test_what_is_not_spires_output_is_refused(cli: Cli, etc: Path, tmp_path: Path, text: str):
    have = tmp_path / "have.json"
    have.write_text('{"entries": []}')
    assert cli("spire", "entries", "--config", etc, "--have", have).exit_code == 1
    have.write_text(text)
    result = cli("spire", "entries", "--config", etc, "--have", have)
    assert result.exit_code == 2
    assert "entry show -output json" in result.stderr


def test_without_a_broker_toml_it_asks_for_one(cli: Cli):
    result = cli("spire", "entries")
    assert result.exit_code == 2
    assert "--config FILE" in result.stderr


def test_the_broker_that_the_registry_does_not_name_is_needed_all_the_same(cli: Cli, etc: Path):
    registry = etc.parent / "registry.yaml"
    lines = [line for line in REGISTRY.splitlines() if "role: broker" not in line]
    registry.write_text(
        "\n".join(lines).replace("name: chat", "name: broker").replace("count: 5", "count: 4")
    )
    given = ("--selector", "broker=unix:uid:7", "--selector", f"{HOME}/agent/chat=unix:uid:8")
    said = json.loads(cli("spire", "entries", "--config", etc, *PARENT, *given, "--json").stdout)
    assert [each["spiffe_id"] for each in said["entries"]] == [
        f"{HOME}/stepwrit/broker",
        f"{HOME}/agent/chat",
    ]
