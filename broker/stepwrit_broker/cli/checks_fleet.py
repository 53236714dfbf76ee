"""Whether the engines of [fleet] answer and are set so that the fleet's promise holds. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from stepwrit_broker.cli.check import Check
from stepwrit_broker.clock import SystemClock
from stepwrit_broker.config import Config
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.store.fleet.facts import PostgresFacts, RedisFacts
from stepwrit_broker.store.fleet.postgres.facts import facts
from stepwrit_broker.store.fleet.postgres.session import connect, trouble
from stepwrit_broker.store.fleet.promises import Judged
from stepwrit_broker.wiring.fleet_engines import judged, redis_of, session_of
from stepwrit_broker.wiring.fleet_settings import fleet_of
from stepwrit_broker.wiring.settings import FleetSettings

_CORRECT = "correct broker.toml [fleet]"
_STANDING = "SELECT f.nth, l.holder, l.until > now() AS is_led FROM fleet f LEFT JOIN lease l ON true"


def fleet_check(config: Config) -> Iterator[Check]:
    """None for a broker that is alone."""
    try:
        fleet = fleet_of(config.fleet)
    except Problem as bad:
        yield Check(name="fleet", ok=False, said=bad.reason, todo=_CORRECT)
        return
    if fleet is not None:
        yield from asyncio.run(_checks(fleet))


async def _checks(fleet: FleetSettings) -> list[Check]:
    redis, of_redis = await _redis(fleet)
    postgres, of_postgres = await _postgres(fleet)
    if redis is None or postgres is None:
        return [of_redis, *of_postgres]
    try:
        settings = list(_settings(judged(fleet, redis, postgres)))
    except Problem as bad:
        settings = [Check(name="fleet", ok=False, said=bad.reason, todo=_CORRECT)]
    return [of_redis, *of_postgres, *settings]


async def _redis(fleet: FleetSettings) -> tuple[tuple[RedisFacts, ...] | None, Check]:
    try:
        swift = redis_of(fleet)
        try:
            found = await swift.facts(SystemClock())
        finally:
            await swift.close()
    except Problem as bad:
        todo = "start Redis, or correct redis and its files in broker.toml [fleet]"
        return None, Check(name="redis", ok=False, said=bad.reason, todo=todo)
    nodes = ", ".join(f"{each.node} ({each.version}, clock {each.clock_offset_s:+.3f} s)" for each in found)
    return found, Check(name="redis", ok=True, said=f"{found[0].mode}: {nodes}")


async def _postgres(fleet: FleetSettings) -> tuple[PostgresFacts | None, list[Check]]:
    try:
        conn = await connect(session_of(fleet))
        try:
            with trouble():
                found = await facts(conn, SystemClock())
                is_there = await conn.fetchval("SELECT to_regclass('fleet') IS NOT NULL")
                row = await conn.fetchrow(_STANDING) if is_there else None
        finally:
            await conn.close()
    except Problem as bad:
        todo = "start PostgreSQL, or correct postgres and its files in broker.toml [fleet]"
        return None, [Check(name="postgres", ok=False, said=bad.reason, todo=todo)]
    said = f"{found.node} ({found.version}, clock {found.clock_offset_s:+.3f} s)"
    return found, [Check(name="postgres", ok=True, said=said), _standing(row)]


def _standing(row: Mapping[str, Any] | None) -> Check:
    if row is None:
        todo = "the first broker that starts makes it"
        return Check(name="epoch", ok=None, said="the database has no fleet yet", todo=todo)
    is_led = bool(row["is_led"])
    leader = f"{row['holder']} carries the streams" if is_led else "nobody carries the streams now"
    said, todo = f"number {row['nth']} of this fleet; {leader}", "" if is_led else "start a broker"
    return Check(name="epoch", ok=is_led or None, said=said, todo=todo)


def _settings(found: Judged) -> Iterator[Check]:
    for each in found.refused:
        said, _, todo = each.text.partition("; to live with it: ")
        yield Check(name="fleet", ok=False, said=said, todo=todo and f"change it, or live with it: {todo}")
    for each in found.accepted:
        yield Check(name="fleet", ok=None, said=f"accepted: {each.name} at {each.node}: {each.breaks}")
    for name in found.unused:
        yield Check(
            name="fleet", ok=None, said=f"accepted, and not there: {name}", todo="take it out of accept"
        )
    if not found.refused:
        yield Check(name="fleet", ok=True, said="the engines' settings keep what the fleet promises")
