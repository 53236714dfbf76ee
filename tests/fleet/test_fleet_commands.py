"""`stepwrit fleet migrate` and `fleet status` on real engines: made, missing, too much."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.cli.conftest import Cli, cli
from tests.fleet.conftest import connected
from tests.rigs.postgres import PostgresServer
from tests.rigs.redis import redis_server
from typer.testing import Result

from stepwrit_broker.store.fleet.redis import RedisSwift

__all__ = ["cli"]
pytestmark = pytest.mark.live
ROLES = ("CREATE ROLE {o} LOGIN", "CREATE ROLE {b} LOGIN", "GRANT CREATE ON DATABASE {d} TO {o}")


class Place:
    """A database with two roles of its own."""

    def __init__(self, cli: Cli, server: PostgresServer, dsn: Callable[[str], str]) -> None:
        self.cli, self.server, self.dsn = cli, server, dsn
        self.database = dsn("x").rpartition("/")[2]
        self.owner, self.broker = f"own_{self.database}", f"brk_{self.database}"

    async def prepare(self) -> None:
        async with connected(self.dsn("postgres")) as conn:
            for each in ROLES:
                await conn.execute(each.format(o=self.owner, b=self.broker, d=self.database))

    async def run(self, *words: object) -> Result:
        return await asyncio.to_thread(self.cli, "fleet", *words)

    async def migrate(self, *more: str, role: str = "", brokers: str = "") -> Result:
        words = (
            "--dsn",
            self.dsn(role or self.owner),
            "--brokers-role",
            brokers or self.broker,
            "--shards",
            "4",
        )
        return await self.run("migrate", *words, *more)

    async def checked(self) -> dict[str, Any]:
        return dict(json.loads((await self.migrate("--check", "--json")).stdout))


@pytest.fixture
async def place(cli: Cli, postgres: PostgresServer, database: Callable[[str], str]) -> Place:
    made = Place(cli, postgres, database)
    await made.prepare()
    return made


async def wrong(place: Place) -> list[str]:
    return list((await place.checked())["roles"][place.broker])


async def test_a_check_changes_nothing_and_migrating_again_is_nothing(place: Place) -> None:
    assert (await place.migrate("--check")).exit_code == 1
    async with connected(place.dsn("postgres")) as conn:
        assert await conn.fetchval("SELECT to_regnamespace('stepwrit') IS NULL")
    first = await place.migrate()
    assert first.exit_code == 0, first.output
    assert "was none" in first.stdout
    second = await place.migrate()
    assert (second.exit_code, "was" in second.stdout) == (0, False)
    assert (await place.migrate("--check")).exit_code == 0
    assert (await place.checked())["ok"] is True
    assert (await place.checked())["shards"] == 4
    async with connected(place.dsn(place.broker)) as conn:
        assert await conn.fetchval("SELECT shards FROM stepwrit.fleet") == 4
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("DELETE FROM stepwrit.uses")


async def test_a_check_names_each_right_that_is_missing_or_too_much(place: Place) -> None:
    assert (await place.migrate()).exit_code == 0
    assert await wrong(place) == []
    for statement, said in (
        (f"GRANT DELETE ON stepwrit.uses TO {place.broker}", "it has DELETE on uses, which it must not have"),
        (f"REVOKE INSERT ON stepwrit.proofs FROM {place.broker}", "it lacks INSERT on proofs"),
        (f"GRANT CREATE ON SCHEMA stepwrit TO {place.broker}", "it may make tables"),
    ):
        async with connected(place.dsn("postgres")) as conn:
            await conn.execute(statement)
        assert any(said in each for each in await wrong(place)), statement
    async with connected(place.dsn("postgres")) as conn:
        await conn.execute(f"REVOKE CREATE ON SCHEMA stepwrit FROM {place.broker}")
    mended = await place.migrate()
    assert mended.exit_code == 0, mended.output
    async with connected(place.dsn("postgres")) as conn:
        await conn.execute(f"GRANT {place.owner} TO {place.broker}")
    member = await place.migrate()
    assert member.exit_code == 1
    assert "which it must not have" in member.stdout
    assert "it is a superuser" in (await place.migrate(brokers="postgres")).stdout


async def test_it_says_what_to_do_where_it_may_not(place: Place) -> None:
    early = await place.migrate(role=place.broker)
    assert early.exit_code == 3
    assert "connect as their owner" in early.stderr
    assert (await place.migrate()).exit_code == 0
    for result, said in (
        (await place.migrate(role=place.broker), "connect as their owner"),
        (await place.migrate(brokers="nobody_at_all"), "no role 'nobody_at_all'"),
        (
            await place.run("migrate", "--dsn", place.dsn(place.owner), "--shards", "8"),
            "4 shards for good",
        ),
        (await place.run("migrate", "--dsn", place.dsn(place.owner) + "_not"), "no such database"),
    ):
        assert result.exit_code == 3, result.output
        assert said in result.stderr
    other = await place.run("migrate", "--dsn", place.dsn(place.owner), "--shards", "8", "--check")
    assert other.exit_code == 1
    assert "set [fleet] shards = 4" in other.stdout


async def test_status_tells_of_both_engines(place: Place, tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        toml = tmp_path / "broker.toml"
        toml.write_text(
            'trust_domain = "prod.example"\nissuer = "https://b.example:8444"\n'
            f'[fleet]\nredis = "{redis.url}"\npostgres = "{place.dsn(place.broker)}"\nshards = 4\n'
        )
        early = await place.run("status", "--config", toml)
        assert (early.exit_code, "fleet migrate" in early.stderr) == (3, True)
        assert (await place.migrate()).exit_code == 0
        async with connected(place.dsn("postgres")) as conn:
            epoch = await conn.fetchval("SELECT epoch FROM stepwrit.fleet")
            await conn.execute("UPDATE stepwrit.lease SET holder = 'one', until = now() + interval '1 hour'")
        swift = RedisSwift.of(redis.url, fleet="stepwrit", shards=4)
        await swift.begin(str(epoch), 1)
        await swift.close()
        said = json.loads((await place.run("status", "--config", toml, "--json")).stdout)
        assert (said["carried_by"], said["entries"], said["waiting_in_redis"], said["shards"]) == (
            "one",
            0,
            0,
            4,
        )
        redis.stop()
        shown = await place.run("status", "--config", toml)
        assert shown.exit_code == 0
        assert "waiting in redis     Redis: " in shown.stdout
