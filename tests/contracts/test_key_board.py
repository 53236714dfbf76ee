"""The board of key statements: in memory, and in a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from tests.contracts.key_board_suite import NOW, KeyBoardSuite, posted
from tests.fakes.keyboard import MemoryKeyBoard
from tests.faults.relay import Behaviour, Relay
from tests.rigs.postgres import postgres_server

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.keys.board import PgKeyBoard, open_board
from stepwrit_broker.ports_fleet import STATEMENT_MAX


class TestInMemory(KeyBoardSuite):
    @pytest.fixture
    def board(self) -> MemoryKeyBoard:
        return MemoryKeyBoard()


@pytest.mark.live
class TestInPostgres(KeyBoardSuite):
    @pytest_asyncio.fixture
    async def board(self) -> AsyncIterator[PgKeyBoard]:
        async with postgres_server() as server:
            made = await open_board(server.dsn)
            yield made
            await made.close()


@pytest.mark.live
async def test_brokers_that_start_together_share_one_table_and_doubt_is_said() -> None:
    async with postgres_server() as server:
        boards = await asyncio.gather(*(open_board(server.dsn) for _ in range(4)))
        await boards[0].post(posted(), NOW)
        assert list(await boards[3].posted(NOW)) == [posted()]
    with pytest.raises(Unavailable) as doubt:
        await boards[0].posted(NOW)
    assert doubt.value.rule == "store"
    with pytest.raises(Unavailable):
        await open_board(server.dsn)
    for each in boards:
        await each.close()


@pytest.mark.live
async def test_what_is_larger_than_any_statement_is_not_brought_to_a_broker() -> None:
    async with postgres_server() as server:
        board = await open_board(server.dsn)
        await board.post(posted(), NOW)
        conn = await asyncpg.connect(server.dsn)
        huge = "INSERT INTO broker_keys (id, statement, until) VALUES ('x', repeat('x', $1), 'infinity')"
        await conn.execute(huge, STATEMENT_MAX + 1)
        assert await conn.fetchval("SELECT count(*) FROM broker_keys") == 2
        await conn.close()
        assert list(await board.posted(NOW)) == [posted()]
        await board.close()


@pytest.mark.live
async def test_a_database_that_falls_silent_is_doubt_and_no_hanging() -> None:
    async with postgres_server() as server:
        relay = Relay("postgres", to=("127.0.0.1", server.port))
        await relay.start()
        board = await open_board(server.dsn.replace(f":{server.port}/", f":{relay.port}/"))
        await board.post(posted(), NOW)
        assert list(await board.posted(NOW)) == [posted()]
        relay.misbehave(Behaviour("half_open"))
        for work in (board.posted(NOW), board.post(posted(), NOW)):
            with pytest.raises(Unavailable):
                await work
        await relay.stop()
        await board.close()
