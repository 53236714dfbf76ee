"""What is known of a log from others than its broker: kept checkpoints, and witnesses' cosignatures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stepwrit_broker.core.errors import Problem
from stepwrit_broker.ledger.cosignature import CosignatureVerifier, cosigned
from stepwrit_broker.ledger.exported import open_by_key
from stepwrit_broker.ledger.notes import NoteVerifier
from stepwrit_broker.ledger.report import FindingKind, Followed
from stepwrit_broker.ledger.source import LogSource

Find = Callable[[FindingKind, int | None, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What was kept by somebody who is not the broker.

    checkpoints: signed notes. witnesses: whose cosignatures count, on those and on what the database holds.
    quorum: how many of them; None: all.
    """

    checkpoints: tuple[str, ...] = ()
    witnesses: tuple[CosignatureVerifier, ...] = ()
    quorum: int | None = None

    @property
    def needed(self) -> int:
        """How many of the witnesses must have cosigned."""
        return len(self.witnesses) if self.quorum is None else self.quorum


NOWHERE: Final = Elsewhere()


def followed(
    source: LogSource, verifier: NoteVerifier, elsewhere: Elsewhere, find: Find
) -> tuple[Followed, ...]:
    """How far each of the given witnesses cosigned what the database holds.

    A stored cosignature that does not verify is a finding, and so are fewer witnesses than demanded.
    """
    if not elsewhere.witnesses:
        return ()
    found: dict[str, Followed] = {}
    for note, line, size in source.cosignatures():
        try:
            open_by_key(note, verifier)
            for made in cosigned(note + line, elsewhere.witnesses):
                found[made.by.vkey] = Followed(made.by.name, size, made.at)
        except Problem as bad:
            find("cosignature_forged", None, f"on the checkpoint of size {size}: {bad.reason}")
    if len(found) < elsewhere.needed:
        find(
            "not_cosigned",
            None,
            f"{len(found)} of {len(elsewhere.witnesses)} witnesses cosigned anything here",
        )
    return tuple(found[each.vkey] for each in elsewhere.witnesses if each.vkey in found)
