"""`init --fleet`, `fleet init` and `fleet acl`: settings and lines that are written, without an engine."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from tests.cli.conftest import Cli

from stepwrit_broker.cli.scaffold_fleet import with_settings
from stepwrit_broker.config import load_config

ISSUER = "https://stepwrit.prod.example:8444"
WHO = ("--trust-domain", "prod.example", "--issuer", ISSUER)
SECRET = "0123456789abcdef0123456789abcdef"
PAGE = Path(__file__).parents[2] / "docs/reference/fleet-redis.md"


def test_init_fleet_writes_a_fleet_on_loopback_and_says_what_comes_next(cli: Cli, tmp_path: Path) -> None:
    alone = cli("init", tmp_path / "alone", *WHO)
    assert alone.exit_code == 0
    assert not load_config(tmp_path / "alone/broker.toml", env={}).fleet.is_on
    made = cli("init", tmp_path / "many", "--fleet", *WHO)
    assert made.exit_code == 0
    config = load_config(tmp_path / "many/broker.toml", env={})
    assert config.fleet.is_on
    assert config.fleet.redis_password_file == tmp_path / "many/redis.password"
    assert config.fleet.accept == ()
    assert config.listen.drain_s > 0
    for word in ("fleet acl", "CREATE ROLE", "fleet migrate", "doctor"):
        assert word in made.stdout
        assert word not in alone.stdout or word == "doctor"


def test_init_takes_engines_elsewhere_over_verified_tls_only(cli: Cli, tmp_path: Path) -> None:
    safe = (
        "--redis",
        "rediss://u@redis.example",
        "--postgres",
        "postgresql://u@db.example/s?sslmode=verify-full",
    )
    assert cli("init", tmp_path / "safe", "--fleet", *WHO, *safe).exit_code == 0
    for at, unsafe in enumerate(
        (
            (*safe[:2], "--postgres", "postgresql://u@db.example/s?sslmode=require"),
            (*safe[:2], "--postgres", "postgresql://u@127.0.0.1,db.example/s"),
            ("--redis", "redis://u@redis.example", *safe[2:]),
            ("--redis", "rediss://u:secret-word@redis.example", *safe[2:]),
        )
    ):
        said = cli("init", tmp_path / f"unsafe{at}", "--fleet", *WHO, *unsafe)
        assert said.exit_code == 1, unsafe
        assert "secret-word" not in said.output
        assert not (tmp_path / f"unsafe{at}").exists()
    assert cli("init", tmp_path / "x", *WHO, *safe).exit_code == 2


def test_fleet_init_keeps_what_stands_and_gives_the_log_another_name(cli: Cli, tmp_path: Path) -> None:
    assert cli("init", tmp_path, *WHO).exit_code == 0
    source = tmp_path / "broker.toml"
    own = (
        source.read_text()
        .replace("[listen]", "[listen]\nops = '127.0.0.1:1'\n")
        .replace("# [[oidc]]", '[[oidc]]\nissuer = "https://idp.example"\n# [[oidc]]')
    )
    source.write_text(own)
    made = cli("fleet", "init", "--config", source, "--into", "fleet.toml")
    assert made.exit_code == 0, made.output
    assert source.read_text() == own
    before, after = load_config(source, env={}), load_config(tmp_path / "fleet.toml", env={})
    assert (after.listen.ops, after.oidc, after.files) == (before.listen.ops, before.oidc, before.files)
    assert after.fleet.is_on
    assert after.ledger.origin == f"{before.ledger.origin}/fleet"
    assert after.ledger.key_file != before.ledger.key_file
    assert after.store.anchor != before.store.anchor
    again = cli("fleet", "init", "--config", source, "--into", "fleet.toml")
    assert again.exit_code == 1
    assert "already there" in again.stderr
    assert (
        "of a fleet already"
        in cli("fleet", "init", "--config", tmp_path / "fleet.toml", "--into", "b.toml").stderr
    )
    elsewhere = tmp_path / "sub"
    elsewhere.mkdir()
    assert cli("fleet", "init", "--config", source, "--into", elsewhere / "fleet.toml").exit_code == 1
    assert not list(elsewhere.iterdir())
    assert cli("fleet", "init", "--into", "fleet.toml").exit_code == 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "[fleet]\nredis = 'a'\n[other]\nredis = 'b'\n",
            {"fleet": {"redis": "new"}, "other": {"redis": "b"}},
        ),
        ("[fleet] # it\n", {"fleet": {"redis": "new"}}),
        ("a = 1", {"a": 1, "fleet": {"redis": "new"}}),
        ("[x]\n# redis = ''\n", {"x": {}, "fleet": {"redis": "new"}}),
        (
            "[fleet]\nname = 'n'\n[[oidc]]\nredis = 'b'\n",
            {"fleet": {"name": "n", "redis": "new"}, "oidc": [{"redis": "b"}]},
        ),
    ],
)
def test_a_setting_is_put_where_it_belongs(text: str, wanted: dict[str, object]) -> None:
    assert tomllib.loads(with_settings(text, {("fleet", "redis"): "new"})) == wanted


def acl_of_the_page() -> set[str]:
    found = re.search(r"^ACL SETUSER stepwrit on \S+ (.*?)\n```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return set(found[1].replace("\\\n", " ").split())


def test_the_acl_line_is_that_of_the_page_and_holds_no_password(cli: Cli, tmp_path: Path) -> None:
    assert cli("init", tmp_path, "--fleet", *WHO).exit_code == 0
    (tmp_path / "redis.password").write_text(SECRET + "\n")
    toml = tmp_path / "broker.toml"
    line = cli("fleet", "acl", "--config", toml, "--name", "prod").stdout.strip()
    words = line.split()
    assert words[:4] == ["user", "stepwrit", "on", "#" + hashlib.sha256(SECRET.encode()).hexdigest()]
    assert set(words[4:]) == acl_of_the_page()
    assert SECRET not in line
    assert "~{stepwrit:*}:*" in cli("fleet", "acl", "--config", toml).stdout
    sentinel = cli(
        "fleet", "acl", "--sentinel", "--user", "s", "--password-file", tmp_path / "redis.password"
    ).stdout
    assert "+sentinel|get-master-addr-by-name" in sentinel
    assert "~" not in sentinel


def test_an_acl_line_without_a_user_or_with_a_weak_password_is_refused(cli: Cli, tmp_path: Path) -> None:
    weak = tmp_path / "weak"
    weak.write_text("hunter2-hunter2")
    assert cli("fleet", "acl", "--user", "u", "--password-file", weak).exit_code == 2
    assert "hunter2" not in cli("fleet", "acl", "--user", "u", "--password-file", weak).output
    weak.write_text(SECRET)
    assert cli("fleet", "acl", "--user", "u", "--password-file", weak).exit_code == 0
    assert cli("fleet", "acl", "--password-file", weak).exit_code == 2
    assert cli("fleet", "acl", "--user", "u").exit_code == 2


def test_status_and_migrate_without_settings_say_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    assert cli("fleet", "status").exit_code == 2
    dsn = "postgresql://owner:secret-word@127.0.0.1:1/x"
    said = cli("fleet", "migrate", "--dsn", dsn)
    assert said.exit_code == 2
    assert "--password-file" in said.stderr
    assert "secret-word" not in said.output
    assert cli("fleet", "migrate", "--dsn", "file.db").exit_code == 2
    dead = cli("fleet", "migrate", "--dsn", "postgresql://owner@127.0.0.1:1/x")
    assert (dead.exit_code, dead.stdout) == (3, "")
