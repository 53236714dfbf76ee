"""The least that a broker needs of Redis, as ACL rules (https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

CONNECTION: Final = (
    "+evalsha", "+script|load", "+info", "+xread", "+publish", "+subscribe", "+ping", "+scan", "+time",
    "+select",
)  # fmt: skip
SETTINGS: Final = ("+config|get", "+acl|whoami")  # without them the settings have to be stated
CLUSTER: Final = ("+cluster|slots",)
SCRIPTS: Final = (
    "+hmget", "+hset", "+hget", "+hgetall", "+hdel", "+hincrby", "+exists", "+unlink", "+del", "+xadd",
    "+xtrim", "+xlen", "+lpos", "+lpush", "+ltrim", "+zadd", "+zrem", "+zscore", "+zrangebyscore",
)  # fmt: skip
"""Redis checks what a script calls by the user as well."""
SENTINEL: Final = ("+sentinel|get-master-addr-by-name", "+sentinel|master", "+info")


def rules(fleet: str) -> Sequence[str]:
    """Of a broker's user on the Redis servers, without its password. fleet: the name in `[fleet]`."""
    scope = ("resetkeys", f"~{{{fleet}:*}}:*", "resetchannels", f"&{{{fleet}}}:told", "-@all")
    return (*scope, *CONNECTION, *SETTINGS, *CLUSTER, *SCRIPTS)


def sentinel_rules() -> Sequence[str]:
    """Of a broker's user on the Sentinels, without its password."""
    return ("resetkeys", "resetchannels", "-@all", "+ping", *SENTINEL)
