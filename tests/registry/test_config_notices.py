"""[mail] and [[webhook]] of broker.toml: what is taken, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepwrit_broker.config import Config, parse_config
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.wiring.configured import hook_of, mail_server

HEAD = 'trust_domain = "prod.example"\nissuer = "https://broker.example:8444"\nspiffe_socket = "unix:///a"\n'
MAIL = {"host": "mail.example", "sender": "Stepwrit <a@corp.example>"}
HOOK = {"name": "chat", "url": "https://hooks.example/in", "secret_file": "chat.secret"}


def toml(title: str, table: dict[str, Any]) -> str:
    lines = [
        f"{name} = {value if isinstance(value, int | list) else repr(value)}" for name, value in table.items()
    ]
    return "\n".join([title, *lines, ""])


def read(text: str) -> Config:
    return parse_config(HEAD + text, name="broker.toml", folder=Path("/etc/stepwrit"), env={})


def test_nothing_is_told_where_nothing_is_named() -> None:
    config = read("")
    assert mail_server(config) is None
    assert config.webhook == ()


def test_what_is_named_is_taken() -> None:
    login = {"user": "broker", "password_file": "mail.password", "ca_file": "/etc/ca.pem", "every_s": 30}
    config = read(toml("[mail]", MAIL | login) + toml("[[webhook]]", HOOK | {"events": ["asked", "expired"]}))
    server, hook = mail_server(config), hook_of(config.webhook[0])
    assert server is not None
    assert (server.host, server.port, server.security, server.every_s) == (
        "mail.example",
        587,
        "starttls",
        30,
    )
    assert server.password_file == Path("/etc/stepwrit/mail.password")
    assert (hook.name, hook.secret_file) == ("chat", Path("/etc/stepwrit/chat.secret"))
    assert (hook.events, hook.ca_file) == (frozenset({"asked", "expired"}), None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"security": "none"}, "mail.security: none is for a loopback host"),
        ({"security": "plain"}, "mail.security: must be one of"),
        ({"sender": ""}, "mail.sender: must be a mail address"),
        ({"user": "x"}, "mail.user: needs password_file"),
        ({"password_file": "x"}, "mail.user: needs password_file"),
        ({"port": 70000}, "mail.port: must be at most 65535"),
        ({"every_s": 0}, "mail.every_s: must be at least 1"),
        ({"password": "hunter2"}, "mail.password: is not known"),
    ],
)
def test_a_mail_server_that_could_not_be_right_is_refused(change: dict[str, Any], said: str) -> None:
    assert read(toml("[mail]", MAIL)).mail.host == "mail.example"
    with pytest.raises(Malformed) as bad:
        read(toml("[mail]", MAIL | change))
    assert said in bad.value.reason


@pytest.mark.parametrize(
    "url",
    ["http://hooks.example/in", "ftp://hooks.example", "https://", "https://u:p@hooks.example",
     "hooks.example", "https://hooks.example/#x", "https://hooks example", "https://hooks.example:99999", "file:///etc/passwd"],
)  # fmt: skip
def test_a_hook_goes_to_https_or_to_this_machine(url: str) -> None:
    for good in ("https://hooks.example/in?key=1", "http://127.0.0.1:8000", "http://[::1]:8000/x"):
        assert read(toml("[[webhook]]", HOOK | {"url": good})).webhook[0].url == good
    with pytest.raises(Malformed, match=r"webhook\[0\]\.url: must be an https URL"):
        read(toml("[[webhook]]", HOOK | {"url": url}))


def test_a_hook_has_a_name_of_its_own_and_known_events() -> None:
    with pytest.raises(Malformed, match="webhook: uses a name twice"):
        read(toml("[[webhook]]", HOOK) * 2)
    with pytest.raises(Malformed, match="name: must be letters"):
        read(toml("[[webhook]]", HOOK | {"name": "a b"}))
    with pytest.raises(Malformed, match="must be one of asked"):
        read(toml("[[webhook]]", HOOK | {"events": ["opened"]}))
