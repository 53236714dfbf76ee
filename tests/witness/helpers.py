"""A log that can fork, and a witness of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stepwrit_broker.core.merkle import (
    Checkpoint,
    Frontier,
    consistency_proof,
    leaf_hash,
    root_of,
)
from stepwrit_broker.core.tlog import AddCheckpoint
from stepwrit_broker.ledger.cosignature import CosignatureSigner
from stepwrit_broker.ledger.notes import NoteSigner, sign_note
from stepwrit_broker.ledger.witness.state import WitnessState, create_state
from stepwrit_broker.ledger.witness.witness import Witness

ORIGIN = "log.example/one"
W1 = CosignatureSigner.from_seed("witness.example/w1", b"1" * 32)
NOW = 1_760_000_000


@dataclass
class Log:
    """Leaves in memory, signed as somebody with the log's key would."""

    origin: str = ORIGIN
    seed: bytes = b"l" * 32
    leaves: list[bytes] = field(default_factory=list)

    @property
    def key(self) -> NoteSigner:
        return NoteSigner.from_seed(self.origin, self.seed)

    def add(self, count: int, mark: bytes = b"") -> Log:
        self.leaves += [leaf_hash(mark + b"%d" % (len(self.leaves) + at)) for at in range(count)]
        return self

    def get(self, level: int, index: int) -> bytes:
        return root_of(self.leaves[index << level : (index + 1) << level])

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        at = len(self.leaves) if size is None else size
        frontier = Frontier()
        frontier.extend(self.leaves[:at])
        return Checkpoint(origin=self.origin, size=at, root=frontier.root)

    def note(self, size: int | None = None) -> str:
        return sign_note(self.checkpoint(size).text(), [self.key])

    def request(self, old: int, size: int | None = None) -> bytes:
        at = len(self.leaves) if size is None else size
        proof = tuple(consistency_proof(old, at, self.get)) if old <= at else ()
        return AddCheckpoint(old=old, proof=proof, checkpoint=self.note(at)).text().encode()


def witness_at(
    path: Path, *logs: Log, now: Callable[[], float] = lambda: NOW
) -> tuple[Witness, WitnessState]:
    """A witness on the state at `path`, which is made if there is none."""
    if not path.exists():
        create_state(path)
    state = WitnessState(path)
    return Witness(W1, [each.key.verifier for each in logs or (Log(),)], state, now), state
