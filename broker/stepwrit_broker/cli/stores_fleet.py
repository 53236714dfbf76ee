"""`store adopt --database`: a fleet's database that a broker has outrun goes on, on record."""

from __future__ import annotations

import asyncio

import asyncpg

from stepwrit_broker.cli.output import say
from stepwrit_broker.clock import SystemClock, SystemEntropy
from stepwrit_broker.core import ids
from stepwrit_broker.ledger.adoption import Adoption
from stepwrit_broker.ledger.anchor import Anchor, AnchorFile, Reached
from stepwrit_broker.ledger.notes import NoteSigner
from stepwrit_broker.ledger.postgres.adoption import adopt
from stepwrit_broker.ledger.postgres.checkpoint import PgCheckpointer
from stepwrit_broker.ledger.postgres.log import PgLog
from stepwrit_broker.ledger.postgres.reading import SEARCH_PATH
from stepwrit_broker.ledger.reader import LogReader
from stepwrit_broker.ledger.source import LogSource


def reached(source: LogSource) -> Reached:
    """What a fleet's database says of itself."""
    return Reached(origin=source.meta("origin"), size=source.size(), root_at=LogReader(source).root_at)


def adopt_fleet(dsn: str, key: NoteSigner, held: AnchorFile, lost: Anchor | None, reason: str) -> None:
    """Adopt, anchor, sign, and say what to do next. The role must own the tables."""
    made, ref = asyncio.run(_adopt(dsn, key, held, lost, reason))
    say(f"adopted: the log goes on as {made.new_origin}, after {made.kept.size} entries   ref {ref}")
    say(f"its key under that name, for witnesses:\n{key.under(made.new_origin).verifier.vkey}")
    say("now move the anchor files of all other brokers aside, revoke and freeze again what was revoked or")
    say("frozen since the copy, then start the brokers")


async def _adopt(
    dsn: str, key: NoteSigner, held: AnchorFile, lost: Anchor | None, reason: str
) -> tuple[Adoption, str]:
    entropy, now, log = SystemEntropy(), SystemClock().now(), PgLog()
    epoch, ref = entropy.bytes(16).hex(), ids.make_ref(entropy.bytes(ids.REF_BYTES))
    high = max(now, lost.high_water if lost is not None else now)
    conn = await asyncpg.connect(dsn, server_settings={"search_path": SEARCH_PATH})  # type: ignore[no-untyped-call]
    try:
        made = await adopt(conn, log, base=key.name, epoch=epoch, lost=lost, reason=reason, ref=ref, at=now)
        size, root = await conn.fetchrow("SELECT size, root FROM ledger_head")
        held.put(Anchor(origin=made.new_origin, epoch=epoch, size=size, root=root, high_water=high))
        await PgCheckpointer(key, held).sign(conn, epoch=epoch, high_water=high, at=now)
    finally:
        await conn.close()
    return made, ref
