"""`[fleet]` of a checked configuration, with its passwords read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from stepwrit_broker.config_fleet import NONE, FleetTable, with_password
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.wiring.settings import FleetSettings


def fleet_of(table: FleetTable) -> FleetSettings | None:
    """None for a broker that stands alone. Raises Malformed for a password that cannot be read."""
    if not table.is_on:
        return None
    return FleetSettings(
        redis=with_password(table.redis, _secret("redis_password_file", table.redis_password_file)),
        postgres=with_password(
            table.postgres, _secret("postgres_password_file", table.postgres_password_file)
        ),
        me=table.broker or f"{socket.gethostname()}/{os.getpid()}",
        name=table.name,
        shards=table.shards,
        accept=table.accept,
        redis_stated=table.redis_stated,
        redis_ca_file=_given(table.redis_ca_file),
        redis_cert_file=_given(table.redis_cert_file),
        redis_key_file=_given(table.redis_key_file),
        redis_sentinel_user=table.redis_sentinel_user or None,
        redis_sentinel_password=_secret("redis_sentinel_password_file", table.redis_sentinel_password_file)
        or None,
        redis_timeout_s=table.redis_timeout_s,
        postgres_connections=table.postgres_connections,
        postgres_statement_s=table.postgres_statement_s,
        postgres_commit=table.postgres_commit,
    )


def _given(path: Path) -> Path | None:
    return None if path == NONE else path


def _secret(name: str, path: Path) -> str:
    """A password; empty where no file is named."""
    if path == NONE:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as bad:
        raise Malformed(
            "invalid_request", f"fleet.{name}: {path} cannot be read ({type(bad).__name__})"
        ) from bad
