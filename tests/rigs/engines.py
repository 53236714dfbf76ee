"""Both engines of a fleet, real, and two brokers on them in one process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.fakes.stage import Stage
from tests.rigs.postgres import PostgresServer, postgres_server
from tests.rigs.redis import RedisServer, redis_server

from stepwrit_broker.wiring.broker import Broker
from stepwrit_broker.wiring.settings import BrokerSettings, FleetSettings

ACCEPTED = ("postgres.role=superuser",)  # of the rig's own server


@dataclass
class Engines:
    """One server each."""

    redis: RedisServer
    postgres: PostgresServer

    def settings(self, me: str) -> FleetSettings:
        return FleetSettings(
            redis=self.redis.url, postgres=self.postgres.dsn, me=me, shards=4, accept=ACCEPTED
        )


@asynccontextmanager
async def engines(folder: Path) -> AsyncGenerator[Engines]:
    async with redis_server(folder) as redis, postgres_server() as postgres:
        yield Engines(redis, postgres)


class Fleet:
    """A stage whose broker has another beside it; `stage.broker` is the one that is spoken to."""

    def __init__(self, stage: Stage, engines: Engines) -> None:
        self.stage, self.engines = stage, engines
        self.one: Broker
        self.two: Broker

    def settings(self, name: str) -> BrokerSettings:
        """Of one more broker, with listeners and a folder of its own."""
        folder = self.stage.folder / name
        return replace(
            self.stage.settings(),
            tls=None,
            admin=folder / "admin.sock",
            anchor_path=folder / "anchor.json",
            store_path=folder / "none",
            fleet=self.engines.settings(name),
        )

    async def start(self, name: str) -> Broker:
        """One more broker."""
        broker = Broker(self.settings(name))
        await broker.__aenter__()
        return broker

    async def to(self, broker: Broker) -> None:
        """From now on everybody speaks to this one."""
        await self.stage.hang_up()
        self.stage.broker = broker

    @contextmanager
    def at(self, broker: Broker) -> Generator[Stage]:
        """Spoken to within; connections of before stay."""
        before, self.stage.broker = self.stage.broker, broker
        kept, self.stage._transports = self.stage._transports, {}
        try:
            yield self.stage
        finally:
            self.stage.broker, self.stage._transports = before, kept


@asynccontextmanager
async def fleet(folder: Path) -> AsyncGenerator[Fleet]:
    """Two brokers."""
    async with engines(folder) as both:
        stage = Stage()
        stage.tuned["fleet"] = both.settings("one")
        async with stage:
            made = Fleet(stage, both)
            made.one = stage.broker
            made.two = await made.start("two")
            try:
                yield made
            finally:
                await made.to(made.one)
                await made.two.__aexit__(None, None, None)
