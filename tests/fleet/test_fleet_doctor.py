"""`stepwrit doctor` on [fleet], against real engines: what is reached, and which settings are refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.fleet_log import SmallLog
from tests.fleet.conftest import connected
from tests.rigs.postgres import postgres_server
from tests.rigs.redis import redis_server

from stepwrit_broker.cli.check import Check
from stepwrit_broker.cli.checks_fleet import fleet_check
from stepwrit_broker.config import Config, parse_config
from stepwrit_broker.config_fleet import FleetTable
from stepwrit_broker.store.fleet.postgres.schema import migrate

pytestmark = pytest.mark.live
HEAD = 'trust_domain = "prod.example"\nissuer = "https://broker.example:8444"\nspiffe_socket = "unix:///a"\n'


def _config(**fleet: object) -> Config:
    read = parse_config(HEAD, name="broker.toml", folder=Path("/etc/stepwrit"), env={})
    return replace(read, fleet=FleetTable(**fleet))  # type: ignore[arg-type]


async def _checks(config: Config) -> list[Check]:
    return await asyncio.to_thread(lambda: list(fleet_check(config)))


def _refused(found: list[Check]) -> set[str]:
    return {check.said.partition(" is ")[0] for check in found if check.ok is False}


async def test_it_says_what_is_reached_what_is_wrong_and_what_is_lived_with(tmp_path: Path) -> None:
    assert await _checks(_config()) == []
    async with postgres_server(fsync="on", full_page_writes="on") as truth, redis_server(tmp_path) as swift:
        async with connected(truth.dsn) as conn:
            await conn.execute("CREATE ROLE broker LOGIN")
        good = {"redis": swift.url, "postgres": truth.dsn_of("broker")}
        found = await _checks(_config(**good))
        assert _refused(found) == set()
        assert {check.name: check.ok for check in found} == {
            "redis": True,
            "postgres": True,
            "epoch": None,
            "fleet": True,
        }
        async with connected(truth.dsn) as conn:
            await migrate(conn, SmallLog(), shards=4, brokers=("broker",))
            await conn.execute("UPDATE stepwrit.lease SET holder = 'one', until = now() + interval '1 hour'")
        epoch = next(check for check in await _checks(_config(**good)) if check.name == "epoch")
        assert (epoch.ok, epoch.said) == (True, "number 1 of this fleet; one carries the streams")
        async with swift.client() as client:
            await client.config_set("maxmemory-policy", "allkeys-lru")
        bad = good | {"postgres": truth.dsn}
        assert _refused(await _checks(_config(**bad))) == {"redis.maxmemory-policy", "postgres.role"}
        accept = ("redis.maxmemory-policy=allkeys-lru", "postgres.role=superuser", "postgres.fsync=off")
        lived = await _checks(_config(**bad, accept=accept))
        assert _refused(lived) == set()
        assert [check.said for check in lived if "not there" in check.said] == [
            "accepted, and not there: postgres.fsync=off"
        ]
        assert [check.ok for check in await _checks(_config(**good, redis_stated=("x=y",)))][-1] is False


async def test_an_engine_that_does_not_answer_is_told(tmp_path: Path) -> None:
    dead = _config(redis="redis://127.0.0.1:1", postgres="postgresql://u@127.0.0.1:1/x")
    found = await _checks(dead)
    assert [(check.name, check.ok) for check in found] == [("redis", False), ("postgres", False)]
    missing = _config(
        redis="redis://127.0.0.1:1",
        postgres="postgresql://u@127.0.0.1:1/x",
        redis_password_file=tmp_path / "none",
    )
    assert "redis_password_file" in (await _checks(missing))[0].said
