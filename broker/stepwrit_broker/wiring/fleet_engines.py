"""The two engines of `[fleet]`: how they are reached, and what of their settings must be refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.store.fleet.facts import PostgresFacts, RedisFacts
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.promises import Judged, judge, stated
from stepwrit_broker.store.fleet.redis.engine import RedisSwift
from stepwrit_broker.wiring.settings import FleetSettings


def redis_of(fleet: FleetSettings) -> RedisSwift:
    """Connects at the first use. Raises Malformed for a URL or a file that is none."""
    try:
        return RedisSwift.of(
            fleet.redis,
            fleet=fleet.name,
            shards=fleet.shards,
            timeout_s=fleet.redis_timeout_s,
            ca_file=_named(fleet.redis_ca_file),
            cert_file=_named(fleet.redis_cert_file),
            key_file=_named(fleet.redis_key_file),
            sentinel_username=fleet.redis_sentinel_user,
            sentinel_password=fleet.redis_sentinel_password,
        )
    except ValueError as bad:
        raise Malformed("invalid_request", f"fleet.redis: {bad}") from None


def session_of(fleet: FleetSettings, *, connections: int | None = None) -> Session:
    """How this broker speaks with PostgreSQL; connections: another number than it has for its work."""
    return Session(
        dsn=fleet.postgres,
        synchronous_commit=fleet.postgres_commit,
        connections=connections or fleet.postgres_connections,
        statement_s=fleet.postgres_statement_s,
    )


def judged(fleet: FleetSettings, redis: tuple[RedisFacts, ...], postgres: PostgresFacts) -> Judged:
    """What is refused, accepted and promised. Raises Malformed for a name in `redis_stated` that is none."""
    try:
        told = [stated(each, fleet.redis_stated) for each in redis]
    except ValueError as bad:
        raise Malformed("invalid_request", f"fleet.redis_stated: {bad}") from None
    return judge(told, replace(postgres, sslmode=sslmode(fleet.postgres)), fleet.accept)


def sslmode(dsn: str) -> str:
    """How the server is made sure of, by what our side was told: a server says of itself what it likes.

    `local` where every host is this machine; else libpq's word, `prefer` where there is none.
    """
    parts = urlsplit(dsn)
    asked = parse_qs(parts.query)
    hosts = [*parts.netloc.rpartition("@")[2].split(","), *",".join(asked.get("host", ())).split(",")]
    named = [unquote(each) for each in hosts if each]
    if named and all(_is_this_machine(each) for each in named):
        return "local"
    return asked.get("sslmode", ["prefer"])[-1].replace("_", "-")


def _is_this_machine(name: str) -> bool:
    bare = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name.startswith("/") or bare in ("localhost", "::1") or bare.startswith("127.")


def _named(path: Path | None) -> str | None:
    return None if path is None else str(path)
