"""The roles in PostgreSQL as operators have them: one owns the tables, the brokers' own cannot unsay."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncpg
from tests.faults.process import REPO
from tests.rigs.fleet import Engines

OWNER, BROKERS = "stepwrit_owner", "stepwrit_broker"


async def migrated(rig: Engines, shards: int) -> str:
    """Make both roles and, by `stepwrit fleet migrate`, the tables; the DSN of the brokers' role."""
    conn = await asyncpg.connect(rig.postgres.dsn)
    try:
        await conn.execute(f"CREATE ROLE {OWNER} LOGIN; CREATE ROLE {BROKERS} LOGIN")
        await conn.execute(f"GRANT CREATE ON DATABASE postgres TO {OWNER}")
    finally:
        await conn.close()
    dsn = rig.postgres.dsn_of(OWNER)
    await stepwrit("fleet", "migrate", "--dsn", dsn, "--brokers-role", BROKERS, "--shards", str(shards))
    return rig.dsn_of(BROKERS)


async def stepwrit(*words: str) -> str:
    """A command's output; it must succeed."""
    program = Path(sys.executable).with_name("stepwrit")
    pipe = asyncio.subprocess.PIPE
    run = await asyncio.create_subprocess_exec(str(program), *words, cwd=REPO, stdout=pipe, stderr=pipe)
    out, said = await run.communicate()
    assert run.returncode == 0, f"stepwrit {' '.join(words)}:\n{said.decode()}"
    return out.decode()
