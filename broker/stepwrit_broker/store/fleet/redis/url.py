"""Where the fleet's Redis is, from one URL.

    redis://[user:password@]host[:6379][/db]        rediss:// is the same over TLS, and so on below
    redis+sentinel://[user:password@]host[:26379],host/name[/db]
    redis+cluster://[user:password@]host[:6379],host

User and password are percent-encoded, and are those of the Redis servers; the Sentinels have their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

Mode = Literal["single", "sentinel", "cluster"]
Address = tuple[str, int]
_SCHEMES: Final[dict[str, tuple[Mode, bool]]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Servers to begin with. name: what Sentinels call the primary."""

    mode: Mode
    is_tls: bool
    hosts: tuple[Address, ...]
    name: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def parse(url: str) -> Place:
    """Raises ValueError, which says nothing of the password."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"a Redis URL begins with one of {', '.join(name + '://' for name in _SCHEMES)}")
    if parts.query or parts.fragment:
        raise ValueError("a Redis URL has no query and no fragment: other settings have their own names")
    mode, is_tls = _SCHEMES[parts.scheme]
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    name, db = _path(mode, [unquote(each) for each in parts.path.split("/") if each])
    return Place(
        mode=mode,
        is_tls=is_tls,
        hosts=_hosts(mode, hosts),
        name=name,
        db=db,
        username=unquote(username) or None,
        password=unquote(password) or None,
    )


def _path(mode: Mode, path: list[str]) -> tuple[str, int]:
    name = ""
    if mode == "sentinel":
        if not path:
            raise ValueError("a Sentinel URL ends with the primary's name: redis+sentinel://host,host/name")
        name = path.pop(0)
    if len(path) > 1 or (path and mode == "cluster") or not all(each.isdecimal() for each in path):
        raise ValueError("a Redis URL may end with the number of a database, that of a cluster may not")
    return name, int(path[0]) if path else 0


def _hosts(mode: Mode, netloc: str) -> tuple[Address, ...]:
    hosts = tuple(_address(each, 26379 if mode == "sentinel" else 6379) for each in netloc.split(","))
    if mode == "single" and len(hosts) > 1:
        raise ValueError("redis:// has one host; several are redis+sentinel:// or redis+cluster://")
    return hosts


def _address(text: str, port: int) -> Address:
    parts = urlsplit(f"//{text}")
    try:
        host, given = parts.hostname, parts.port
    except ValueError:
        host, given = None, None
    if not host:
        raise ValueError("a Redis URL names its hosts: HOST or HOST:PORT, separated by commas")
    return host, given or port
