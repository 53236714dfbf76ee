"""The witness itself: bytes of `add-checkpoint` in, signature lines or a refusal out (C2SP tlog-witness)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.merkle import Checkpoint, parse_checkpoint
from stepwrit_broker.core.tlog import AddCheckpoint, parse_add_checkpoint
from stepwrit_broker.core.witnessing import Declined, judge
from stepwrit_broker.ledger.cosignature import CosignatureSigner
from stepwrit_broker.ledger.notes import (
    Note,
    NoteRefused,
    NoteVerifier,
    open_note,
    signature_lines,
)
from stepwrit_broker.ledger.witness.state import Remembered, WitnessState
from stepwrit_broker.ports_ledger import Witnessed

MAX_BODY_BYTES: Final = 65_536


class Witness:
    """Cosigns checkpoints of the logs whose keys it was given. Safe to call from several threads.

    logs: their public keys; the name is the origin, and one log may have several. now: seconds since the
    epoch.
    """

    def __init__(
        self,
        signer: CosignatureSigner,
        logs: Iterable[NoteVerifier],
        state: WitnessState,
        now: Callable[[], float],
    ) -> None:
        self._signer, self._state, self._now = signer, state, now
        self._lock: Final = threading.Lock()
        self._logs: dict[str, list[NoteVerifier]] = {}
        for each in logs:
            self._logs.setdefault(each.name, []).append(each)

    def witnessed(self) -> Mapping[str, Witnessed | None]:
        """Each log that it knows, with the latest checkpoint of it."""
        return {origin: _shown(self._state.logs.get(origin)) for origin in self._logs}

    def add_checkpoint(self, body: bytes) -> str:
        """The cosignature's line. What was cosigned is durable when this returns.

        Raises: Declined with the status and, for 409, the size to answer; Unavailable when the state is in
        doubt, and then nothing was signed.
        """
        asked, keys = self._read(body)
        text = self._verified(asked.checkpoint, keys)
        offered = _checkpoint(text)
        with self._lock:
            latest = self._state.latest(offered.origin)
            self._judge(latest, asked, offered)
            return self._cosign(latest, asked.checkpoint, text, offered)

    def _read(self, body: bytes) -> tuple[AddCheckpoint, list[NoteVerifier]]:
        """The request, and the keys of the log that its note names."""
        if len(body) > MAX_BODY_BYTES:
            raise Declined(400, f"a request has at most {MAX_BODY_BYTES} bytes")
        try:
            asked = parse_add_checkpoint(body.decode())
        except UnicodeDecodeError:
            raise Declined(400, "the request is not UTF-8") from None
        except Problem as bad:
            raise Declined(400, bad.reason) from bad
        keys = self._logs.get(asked.checkpoint.partition("\n")[0])
        if keys is None:
            raise Declined(404, "this witness does not know that log")
        return asked, keys

    def _verified(self, note: str, keys: list[NoteVerifier]) -> str:
        try:
            opened: Note = open_note(note, keys)
        except NoteRefused as bad:
            raise Declined(403, bad.reason) from bad
        return opened.text

    def _judge(self, latest: Remembered | None, asked: AddCheckpoint, offered: Checkpoint) -> None:
        try:
            judge(None if latest is None else latest.checkpoint, asked, offered)
        except Declined as declined:
            if declined.forked and latest is not None:
                with contextlib.suppress(OSError):  # refused all the same
                    self._state.keep_evidence((latest.note, asked.checkpoint))
            raise

    def _cosign(self, latest: Remembered | None, note: str, text: str, offered: Checkpoint) -> str:
        at = max(int(self._now()), 1, 0 if latest is None else latest.at)
        line = self._signer.line(text, at)
        kept = _kept(note, text, self._logs[offered.origin]) + line
        self._state.put(Remembered(checkpoint=offered, at=at, note=kept))
        return line


def _kept(note: str, text: str, keys: list[NoteVerifier]) -> str:
    """The note with the log's own signatures only: whatever else a stranger put under it is not kept."""
    known = {(each.name, each.key_id) for each in keys}
    lines = (each for each in signature_lines(note)[1] if (each.name, each.blob[:4]) in known)
    return text + "\n" + "".join(each.text for each in lines)


def _shown(latest: Remembered | None) -> Witnessed | None:
    return None if latest is None else Witnessed(latest.checkpoint.size, latest.at, latest.note)


def _checkpoint(text: str) -> Checkpoint:
    try:
        return parse_checkpoint(text)
    except Problem as bad:
        raise Declined(400, bad.reason) from bad
