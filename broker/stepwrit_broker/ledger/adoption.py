"""Going on with a database that does not match its anchor: a new origin that commits to the old head.

The old origin is never signed again, so no size of it ever gets a second root. The entries that the
database has stay where they are; the adoption is the first entry under the new origin.
"""

from __future__ import annotations

import base64
import re
import sqlite3
from dataclasses import dataclass
from typing import Final

from stepwrit_broker.core.entry import encode
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.ledger.anchor import Anchor
from stepwrit_broker.ledger.schema import in_doubt
from stepwrit_broker.ledger.sqlite_log import SqliteLog, TreeHead

KIND: Final = "log.adopted"
_EPOCH: Final = re.compile(r"[A-Za-z0-9._-]{8,64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What an adoption states. lost: the anchor that the database did not reach or match, if any."""

    old_origin: str
    new_origin: str
    kept: TreeHead
    lost: Anchor | None
    reason: str


def new_origin(base: str, epoch: str) -> str:
    """The origin after an adoption. The epoch is random, so two adoptions never share one."""
    if not _EPOCH.match(epoch):
        raise Malformed("invalid_request", "an epoch has 8 to 64 of A-Z a-z 0-9 . _ -")
    return f"{base}/{epoch}"


def adoption_body(adoption: Adoption, *, ref: str, at: float) -> bytes:
    """The first entry under the new origin."""
    lost = adoption.lost
    members = {
        "old_origin": adoption.old_origin,
        "new_origin": adoption.new_origin,
        "kept": _head(adoption.kept),
        "lost": lost
        and {"epoch": lost.epoch, "origin": lost.origin, **_head(TreeHead(lost.size, lost.root))},
        "reason": adoption.reason,
    }
    return encode(KIND, ref, at, {"adopted": members})


def adopt(
    conn: sqlite3.Connection,
    log: SqliteLog,
    *,
    base: str,
    epoch: str,
    lost: Anchor | None,
    reason: str,
    ref: str,
    at: float,
) -> Adoption:
    """Append the adoption and rename the log, in the caller's transaction (which it seals and commits).

    base: the key's origin. epoch: the new, random one. at: seconds since the epoch. Afterwards the caller
    puts (`AnchorFile.put`) an anchor of the new head. Raises: Unavailable on a log with open entries.
    """
    if log.position().pending or log.origin is None:
        raise in_doubt("an adoption is the first entry of its transaction, in a log that has a name")
    adoption = Adoption(
        old_origin=log.origin, new_origin=new_origin(base, epoch), kept=log.head, lost=lost, reason=reason
    )
    body = adoption_body(adoption, ref=ref, at=at)
    log.append(conn, body=body, at=at, kind=KIND, txn=None, ref=ref, tenant=None)
    log.rename(conn, adoption.new_origin)
    return adoption


def _head(head: TreeHead) -> dict[str, object]:
    return {"size": head.size, "root": base64.b64encode(head.root).decode()}
