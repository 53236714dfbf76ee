"""Verifying one entry's proof offline: a `.tlog-proof` file, the entry's bytes, public keys; no broker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.merkle import Checkpoint, leaf_hash, verify_inclusion
from stepwrit_broker.core.tlog import parse_proof
from stepwrit_broker.ledger.cosignature import CosignatureVerifier, Cosigned, cosigned
from stepwrit_broker.ledger.exported import open_by_key
from stepwrit_broker.ledger.notes import NoteRefused, NoteVerifier

MAX_PROOF_BYTES: Final = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """The entry is number `index` of the log that signed this checkpoint; cosigned: by which witnesses."""

    index: int
    checkpoint: Checkpoint
    cosigned: tuple[Cosigned, ...]


def verify_proof(
    unverified: str,
    entry: bytes,
    verifier: NoteVerifier,
    *,
    witnesses: Sequence[CosignatureVerifier] = (),
    quorum: int | None = None,
) -> Proved:
    """Return what the proof shows of these very bytes. Its extra data is not looked at.

    verifier: the log's key; a log that was renamed by an adoption is taken, and its origin told.
    quorum: how many of the witnesses must have cosigned; None: all. Raises: TextRefused, NoteRefused,
    CheckpointRefused, ProofRefused.
    """
    if len(unverified) > MAX_PROOF_BYTES:
        raise Malformed("invalid_proof", "the proof is too long")
    proof = parse_proof(unverified)
    checkpoint = open_by_key(proof.checkpoint, verifier)
    check_origin(checkpoint, verifier)
    verify_inclusion(
        leaf=leaf_hash(entry), index=proof.index, size=checkpoint.size, path=proof.path, root=checkpoint.root
    )
    return Proved(
        index=proof.index,
        checkpoint=checkpoint,
        cosigned=enough(proof.checkpoint, witnesses, len(witnesses) if quorum is None else quorum),
    )


def check_origin(checkpoint: Checkpoint, verifier: NoteVerifier) -> None:
    """Return if the key may speak for this origin: its own name, or one below it that an adoption gave.

    Raises: NoteRefused.
    """
    if checkpoint.origin != verifier.name and not checkpoint.origin.startswith(f"{verifier.name}/"):
        raise NoteRefused("invalid_proof", f"a checkpoint of {checkpoint.origin}, not of {verifier.name}")


def enough(note: str, witnesses: Sequence[CosignatureVerifier], quorum: int) -> tuple[Cosigned, ...]:
    """The cosignatures of these witnesses on a note; NoteRefused when they are fewer than `quorum`."""
    found = cosigned(note, witnesses)
    if len(found) < quorum:
        raise NoteRefused(
            "invalid_proof", f"{len(found)} of {len(witnesses)} witnesses cosigned, not {quorum}"
        )
    return found
