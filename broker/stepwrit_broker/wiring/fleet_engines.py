"""The two engines of `[fleet]`: how they are reached, and what of their settings must be refused."""

from __future__ import annotations

from pathlib import Path

from stepwrit_broker.config_fleet import NONE, FleetTable, with_password
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.store.fleet.facts import PostgresFacts, RedisFacts
from stepwrit_broker.store.fleet.postgres.session import Session
from stepwrit_broker.store.fleet.promises import Judged, judge, stated
from stepwrit_broker.store.fleet.redis.engine import RedisSwift


def redis_of(fleet: FleetTable) -> RedisSwift:
    """Connects at the first use. Raises Malformed for a URL or a file that is none."""
    password = _secret(fleet.redis_password_file, "redis_password_file")
    try:
        return RedisSwift.of(
            with_password(fleet.redis, password),
            fleet=fleet.name,
            shards=fleet.shards,
            timeout_s=fleet.redis_timeout_s,
            ca_file=_path(fleet.redis_ca_file),
            cert_file=_path(fleet.redis_cert_file),
            key_file=_path(fleet.redis_key_file),
            sentinel_username=fleet.redis_sentinel_user or None,
            sentinel_password=_secret(fleet.redis_sentinel_password_file, "redis_sentinel_password_file")
            or None,
        )
    except ValueError as bad:
        raise Malformed("invalid_request", f"fleet.redis: {bad}") from None


def session_of(fleet: FleetTable) -> Session:
    """How this broker speaks with PostgreSQL. Raises Malformed for a file that cannot be read."""
    password = _secret(fleet.postgres_password_file, "postgres_password_file")
    return Session(
        dsn=with_password(fleet.postgres, password),
        synchronous_commit=fleet.postgres_commit,
        connections=fleet.postgres_connections,
        statement_s=fleet.postgres_statement_s,
    )


def judged(fleet: FleetTable, redis: tuple[RedisFacts, ...], postgres: PostgresFacts) -> Judged:
    """What is refused, accepted and promised. Raises Malformed for a name in `redis_stated` that is none."""
    try:
        told = [stated(each, fleet.redis_stated) for each in redis]
    except ValueError as bad:
        raise Malformed("invalid_request", f"fleet.redis_stated: {bad}") from None
    return judge(told, postgres, fleet.accept)


def _path(path: Path) -> str | None:
    return None if path == NONE else str(path)


def _secret(path: Path, setting: str) -> str:
    if path == NONE:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as bad:
        raise Malformed(
            "invalid_request", f"fleet.{setting}: {path} cannot be read ({type(bad).__name__})"
        ) from None
