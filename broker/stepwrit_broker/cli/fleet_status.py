"""How a fleet is, as its engines say: no broker is asked."""

from __future__ import annotations

from typing import Any, Final

from stepwrit_broker.cli.output import when
from stepwrit_broker.clock import SystemClock
from stepwrit_broker.config import Config
from stepwrit_broker.core.errors import Malformed, Problem
from stepwrit_broker.store.fleet.postgres.schema import in_doubt
from stepwrit_broker.store.fleet.postgres.session import connect, trouble
from stepwrit_broker.store.fleet.seams import EpochOver
from stepwrit_broker.wiring.fleet_engines import redis_of, session_of
from stepwrit_broker.wiring.fleet_settings import fleet_of
from stepwrit_broker.wiring.settings import FleetSettings

_FLEET: Final = """
SELECT f.epoch, f.nth, f.began_at, f.shards, r.number AS rules, l.holder, l.until > now() AS is_led,
    h.size AS entries, (SELECT value FROM ledger_meta WHERE name = 'origin') AS origin,
    (SELECT max(c.size) FROM ledger_checkpoints AS c
        JOIN ledger_meta AS m ON m.name = 'origin' AND m.value = c.origin) AS signed,
    (SELECT count(*) FROM outbox) AS outbox, (SELECT count(*) FROM marks) AS marks,
    (SELECT count(*) FROM broker_keys WHERE until > extract(epoch FROM now())) AS keys
FROM fleet AS f, ruling AS r, lease AS l, ledger_head AS h
"""


async def fleet_status(config: Config) -> dict[str, Any]:
    """Name and value. Raises Unavailable where PostgreSQL does not answer; Redis away is told."""
    fleet = fleet_of(config.fleet)
    if fleet is None:
        raise Malformed("invalid_request", "this broker.toml has no [fleet]")
    row = await _of_postgres(fleet)
    return {
        "epoch": f"number {row['nth']}, since {when(row['began_at'])}",
        "carried_by": row["holder"] if row["is_led"] else None,
        "ledger": row["origin"],
        "entries": row["entries"],
        "signed": row["signed"] or 0,
        "waiting_in_postgres": row["outbox"],
        "waiting_in_redis": await _backlog(fleet, row["epoch"], row["shards"]),
        "marks": row["marks"],
        "rules": row["rules"],
        "keys_of_brokers": row["keys"],
        "shards": row["shards"],
    }


async def _of_postgres(fleet: FleetSettings) -> Any:
    conn = await connect(session_of(fleet))
    try:
        with trouble():
            if await conn.fetchval("SELECT to_regclass('fleet') IS NULL"):
                raise in_doubt("the database has no fleet yet: stepwrit fleet migrate")
            return await conn.fetchrow(_FLEET)
    finally:
        await conn.close()


async def _backlog(fleet: FleetSettings, epoch: str, shards: int) -> int | str:
    """Works that are not trimmed yet."""
    swift = redis_of(fleet)
    try:
        await swift.facts(SystemClock())
        return sum([await swift.backlog(epoch, shard) for shard in range(shards)])
    except EpochOver:
        return "Redis has another epoch: the next broker that looks begins a new one"
    except Problem as bad:
        return f"Redis: {bad.reason}"
    finally:
        await swift.close()
