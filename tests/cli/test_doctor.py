"""`stepwrit doctor`: sees what is wrong, says what to do, changes nothing."""

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli, Dev
from tests.ledger.helpers import KEY, SEED, Ledger

from stepwrit_broker.cli import checks
from stepwrit_broker.config import Config, Store
from stepwrit_broker.config_fleet import FleetTable
from stepwrit_broker.ledger import keys

PROXY = """
[proxy]
id = "spiffe://dev.stepwrit.internal/{}"
source = "client-cert"
[listen]
mtls_url = "https://lb.dev.example"
"""

REGISTRY = """\
version: 1
tenant: default
entries:
  - {id: spiffe://dev.stepwrit.internal/stepwrit/broker, role: broker, name: stepwrit}
  - id: spiffe://dev.stepwrit.internal/agent/chat
    role: agent
    name: chat
    clients: [{issuer: "https://idp.example", client_id: app}]
    may_start: {tools: [], impact: low}
count: 2
"""


@pytest.fixture
def etc(cli: Cli, dev: Dev, tmp_path: Path) -> Path:
    """A broker.toml that fits the development broker: its identity, socket and files."""
    state = json.loads((dev.folder / "dev.json").read_text())
    (tmp_path / "var").mkdir()
    path = tmp_path / "broker.toml"
    path.write_text(
        f"""
trust_domain = "{state["trust_domain"]}"
issuer = "https://stepwrit.dev.example"
broker_id = "{state["broker_id"]}"
spiffe_socket = "unix://{dev.folder}/wl/stepwrit/broker.sock"
[listen]
admin = "unix:{dev.admin}"
tls_cert = "{dev.folder}/tls.crt"
tls_key = "{dev.folder}/tls.key"
[store]
path = "var/stepwrit.db"
anchor = "var/stepwrit.anchor"
[ledger]
key_file = "var/ledger.key"
[files]
registry = "{dev.folder}/registry.yaml"
limits = "{dev.folder}/limits.yaml"
policy = "{dev.folder}/policy"
"""
    )
    return path


def looked(cli: Cli, path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    result = cli("doctor", "--config", path, "--json")
    return result.exit_code, {each["name"]: each for each in json.loads(result.stdout)["checks"]}


def test_a_healthy_place_has_no_failed_check(cli: Cli, etc: Path):
    code, found = looked(cli, etc)
    assert code == 0
    names = {
        "python",
        "openssl",
        "clock",
        "broker.toml",
        "registry",
        "limits",
        "policy",
        "spiffe socket",
        "spiffe",
        "svid life",
        "svid clock",
        "bundles",
        "tls",
        "proxy",
        "disk",
        "ledger key",
        "broker",
    }
    assert {name for name in names if found[name]["ok"] is not True} == set()
    assert found["anchor"]["ok"] is None  # a warning: on the database's own disk
    shown = cli("doctor", "--config", etc).stdout
    assert "✓ spiffe" in shown
    assert "! anchor" in shown
    assert "→ best on another disk" in shown


def test_a_proxy_is_shown_with_its_source(cli: Cli, etc: Path):
    etc.write_text(etc.read_text().replace("[listen]\n", PROXY.format("edge/proxy")))
    _, found = looked(cli, etc)
    assert found["registry"]["ok"] is True
    assert (
        "/edge/proxy by client-cert; workloads reach it at https://lb.dev.example" in found["proxy"]["said"]
    )


@pytest.mark.parametrize(
    ("name", "old", "new", "todo"),
    [
        ("spiffe", "/wl/stepwrit/broker.sock", "/wl/agent/dev.sock", "run this as the broker's user"),
        ("registry", "/registry.yaml", "/limits.yaml", "what was in force stays"),
        ("policy", "/policy", "/nothing-here", "correct"),
        ("broker.toml", "issuer = ", "isuer = ", "correct"),
        ("registry", "[listen]\n", PROXY.format("operator/dev"), "correct"),
        ("broker.toml", "[listen]\n", PROXY.format("stepwrit/broker"), "correct"),
        ("tls", "/tls.crt", "/no.crt", "put a certificate"),
        ("disk", "[store]\n", "[store]\ndisk_reserve_bytes = 9000000000000000\n", "ledger seal"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    cli: Cli, dev: Dev, etc: Path, name: str, old: str, new: str, todo: str
):
    assert looked(cli, etc)[0] == 0
    cli("dev", "env", "--as", "agent/dev", env=dev.env)  # so that this identity's socket is there
    etc.write_text(etc.read_text().replace(old, new))
    code, found = looked(cli, etc)
    assert code == 1
    assert found[name]["ok"] is False
    assert todo in found[name]["todo"]
    assert f"✗ {name}" in cli("doctor", "--config", etc).stdout


def test_a_certificate_that_this_user_may_not_read_is_told_apart(
    cli: Cli, etc: Path, monkeypatch: pytest.MonkeyPatch
):
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert looked(cli, etc)[1]["tls"]["ok"] is True
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", denied)  # root reads everything
    found = looked(cli, etc)[1]["tls"]
    assert found["ok"] is False
    assert found["todo"].startswith("let the broker's user read both")


def test_a_provider_that_only_the_registry_names_is_a_warning(cli: Cli, dev: Dev, etc: Path, tmp_path: Path):
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY)
    etc.write_text(etc.read_text().replace(f"{dev.folder}/registry.yaml", str(registry)))
    found = looked(cli, etc)[1]["oidc"]
    assert (found["ok"], "https://idp.example" in found["said"]) == (None, True)
    etc.write_text(etc.read_text() + '\n[[oidc]]\nissuer = "https://idp.example"\n')
    found = looked(cli, etc)[1]["oidc"]
    assert (found["ok"], found["said"]) == (True, "https://idp.example")
    registry.write_text(
        REGISTRY.replace('    clients: [{issuer: "https://idp.example", client_id: app}]\n', "")
    )
    assert "oidc" not in looked(cli, etc)[1]


def test_every_name_is_apart_from_what_is_said(cli: Cli, etc: Path):
    shown = cli("doctor", "--config", etc).stdout
    assert "✓ registry drift v" in shown
    assert "✓ python        3" in shown


def test_drift_between_a_file_and_what_is_in_force_is_shown(cli: Cli, dev: Dev, etc: Path, tmp_path: Path):
    limits = tmp_path / "limits.yaml"
    limits.write_text(cli("limits", "export", "--admin", dev.admin).stdout)
    etc.write_text(etc.read_text().replace(f"{dev.folder}/limits.yaml", str(limits)))
    assert looked(cli, etc)[1]["limits drift"]["ok"] is True
    limits.write_text(limits.read_text().replace("600/min", "601/min"))
    found = looked(cli, etc)[1]["limits drift"]
    assert found["ok"] is None
    assert "is not what the file says" in found["said"]
    assert "stepwrit limits apply" in found["todo"]


def test_a_key_that_others_may_read_and_an_anchor_that_is_gone_are_failures(
    cli: Cli, etc: Path, tmp_path: Path
):
    folder = tmp_path / "var"
    keys.create(folder / "ledger.key", origin=KEY.name, seed=SEED)
    ledger = Ledger(folder)
    ledger.add(1)
    ledger.sign()
    ledger.close()
    (folder / "store.db").rename(folder / "stepwrit.db")
    (folder / "anchor.json").rename(folder / "stepwrit.anchor")
    assert looked(cli, etc)[0] == 0
    (folder / "ledger.key").chmod(0o640)
    (folder / "stepwrit.anchor").unlink()
    _, found = looked(cli, etc)
    assert "chmod 600" in found["ledger key"]["todo"]
    assert "there is a database" in found["anchor"]["said"]


def test_the_archive_beside_a_fleet_is_not_the_anchors_database(tmp_path: Path):
    (tmp_path / "stepwrit.db").touch()
    store = Store(path=tmp_path / "stepwrit.db", anchor=tmp_path / "none.anchor")
    fleet = FleetTable(redis="redis://127.0.0.1", postgres="postgresql://127.0.0.1/x")
    for table, is_good in ((FleetTable(), False), (fleet, True)):
        config = Config(trust_domain="a.example", issuer="https://b.example", store=store, fleet=table)
        assert checks.anchor(config).ok is is_good


def test_a_clock_that_went_back_is_seen(etc: Path):
    now = 1_800_000_000.0
    assert checks.clock(now, None).ok is True
    assert checks.clock(now, now - 5).ok is True
    assert checks.clock(now, now + 60).ok is False
    assert checks.clock(12.0, None).ok is False


def test_without_a_broker_toml_it_says_how_to_get_one(cli: Cli):
    result = cli("doctor")
    assert result.exit_code == 0
    assert "stepwrit init DIR" in result.stdout


def test_apply_puts_all_three_files_in_force_or_none(cli: Cli, dev: Dev, etc: Path, tmp_path: Path):
    for kind in ("registry", "limits", "policy"):
        assert cli(kind, "export", "--to", tmp_path / kind, "--admin", dev.admin).exit_code == 0
    text = etc.read_text()
    for kind, name in (("registry", "registry.yaml"), ("limits", "limits.yaml"), ("policy", "policy")):
        text = text.replace(f"{dev.folder}/{name}", str(tmp_path / kind))
    etc.write_text(text)
    given = ("apply", "--config", etc, "--reason", "release 12")
    said = json.loads(cli(*given, "--json").stdout)
    assert {kind: each["changed"] for kind, each in said.items()} == {
        "registry": True,
        "limits": True,
        "policy": True,
    }
    assert "nothing new" in cli(*given).stdout
    limits = tmp_path / "limits"
    (tmp_path / "registry").write_text((tmp_path / "registry").read_text() + "# changed\n")
    limits.write_text(limits.read_text().replace("rates", "rats"))
    before = cli("registry", "history", "--json", "--admin", dev.admin).stdout
    refused = cli(*given)
    assert refused.exit_code == 1
    assert "rats" in refused.stderr
    assert cli("registry", "history", "--json", "--admin", dev.admin).stdout == before
