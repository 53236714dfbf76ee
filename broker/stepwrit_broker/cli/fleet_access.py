"""The line of an ACL file that lets brokers in."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.fleet import digest_of
from stepwrit_broker.config_fleet import NONE, FleetTable
from stepwrit_broker.store.fleet.redis import access


def acl_line(
    fleet: FleetTable | None, *, password: str | None, user: str | None, name: str | None, is_sentinel: bool
) -> str:
    """What is not given comes from `[fleet]`. password: its digest. Raises ConfigurationError."""
    table = fleet or FleetTable()
    login = user or (table.redis_sentinel_user if is_sentinel else _user(table.redis))
    if not login:
        raise ConfigurationError("say --user NAME: the URL in [fleet] redis names none")
    file = table.redis_sentinel_password_file if is_sentinel else table.redis_password_file
    if password is None and file == NONE:
        raise ConfigurationError("say --password-file FILE: [fleet] names none")
    secret = password or digest_of(file.read_text(encoding="utf-8").strip(), str(file))
    words = access.sentinel_rules() if is_sentinel else access.rules(name or table.name)
    return " ".join(("user", login, "on", f"#{secret}", *words))


def _user(url: str) -> str:
    login = urlsplit(url).netloc.rpartition("@")[0]
    return unquote(login.partition(":")[0])
