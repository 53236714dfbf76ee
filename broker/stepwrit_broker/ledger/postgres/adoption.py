"""Going on with a fleet's database that a broker has outrun; see `ledger.adoption`."""

from __future__ import annotations

from stepwrit_broker.ledger.adoption import KIND, Adoption, adoption_body, new_origin
from stepwrit_broker.ledger.anchor import Anchor
from stepwrit_broker.ledger.postgres.log import Conn, PgLog, lock_head
from stepwrit_broker.ledger.schema import in_doubt
from stepwrit_broker.ledger.sqlite_log import TreeHead
from stepwrit_broker.ports_ledger import Said


async def adopt(
    conn: Conn, log: PgLog, *, base: str, epoch: str, lost: Anchor | None, reason: str, ref: str, at: float
) -> Adoption:
    """Append the adoption and rename the log, in one transaction, as the tables' owner.

    base: the key's origin. epoch: a new, random one. at: seconds since the epoch. Afterwards the caller puts
    an anchor of the new head. Raises Unavailable for a log without a name.
    """
    async with conn.transaction():
        old: str | None = await conn.fetchval("SELECT value FROM ledger_meta WHERE name = 'origin'")
        if old is None:
            raise in_doubt("an adoption needs a log that has a name")
        head = await lock_head(conn)
        kept = TreeHead(head.frontier.size, head.root)
        made = Adoption(
            old_origin=old, new_origin=new_origin(base, epoch), kept=kept, lost=lost, reason=reason
        )
        await log.append(conn, [Said(adoption_body(made, ref=ref, at=at), at, KIND, None, ref, None)])
        await conn.execute("UPDATE ledger_meta SET value = $1 WHERE name = 'origin'", made.new_origin)
    return made
