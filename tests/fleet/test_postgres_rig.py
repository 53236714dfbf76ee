"""The rig itself: a server that loses its processes keeps what it said it had."""

from __future__ import annotations

import asyncpg
import pytest
from tests.rigs.postgres import postgres_server

pytestmark = pytest.mark.live


async def test_settings_kill_and_start(tmp_path):
    async with postgres_server(tmp_path, work_mem="5MB", fsync=True) as server:
        conn = await asyncpg.connect(server.dsn)
        assert await conn.fetchval("SHOW work_mem") == "5MB"
        await conn.execute("CREATE TABLE kept (n int)")
        await conn.execute("INSERT INTO kept VALUES (7)")
        assert server.cpu_s() > 0
        assert len(server.backends()) > 2
        await server.kill()
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await conn.fetchval("SELECT 1")
        await server.start()
        again = await asyncpg.connect(server.dsn)
        assert await again.fetchval("SELECT n FROM kept") == 7
        await again.close()
        folder, pid = server.folder, server.process.pid
    assert not folder.exists()
    assert server.process.returncode is not None, pid


async def test_two_at_once():
    async with postgres_server() as one, postgres_server() as other:
        assert one.port != other.port
        a, b = await asyncpg.connect(one.dsn), await asyncpg.connect(other.dsn)
        await a.execute("CREATE TABLE only_here ()")
        assert await b.fetchval("SELECT count(*) FROM pg_tables WHERE tablename = 'only_here'") == 0
        await a.close()
        await b.close()
