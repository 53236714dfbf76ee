"""What a witness remembers: for each log the latest checkpoint that it cosigned. A file of its own.

Forgetting is signing a fork: the file is replaced whole and synced before any cosignature leaves, one process
has it at a time, and a file that cannot be read stops the witness instead of starting it anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, cast

from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.core.merkle import Checkpoint, parse_checkpoint
from stepwrit_broker.durable import hold, new_file, replace, sync_directory

_V: Final = 1
_MAX_BYTES: Final = 64 * 1024 * 1024
EVIDENCE_MAX_BYTES: Final = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The latest checkpoint of a log. at: seconds since the epoch. note: as signed, with our cosignature."""

    checkpoint: Checkpoint
    at: int
    note: str


class WitnessState:
    """The file at `path`; `path.lock` beside it is held until `close`. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises Unavailable for a file that cannot be used, and where there is none (`create_state`)."""
        self._path: Final = path
        self._lock = _held(path)
        try:
            self._logs: dict[str, Remembered] = read_state(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._in_doubt = False

    @property
    def logs(self) -> Mapping[str, Remembered]:
        """By origin."""
        return MappingProxyType(self._logs)

    def latest(self, origin: str) -> Remembered | None:
        """The latest of a log. Raises Unavailable while nobody knows what the file has."""
        if self._in_doubt:
            self._logs, self._in_doubt = read_state(self._path), False
        return self._logs.get(origin)

    def put(self, remembered: Remembered) -> None:
        """Durable when this returns. Raises Unavailable; then the file is read again before anything else."""
        following = {**self._logs, remembered.checkpoint.origin: remembered}
        try:
            replace(self._path, _render(following))
        except OSError as error:
            self._in_doubt = True
            raise _no_state(f"cannot be written: {error.strerror}") from error
        self._logs = following

    def keep_evidence(self, notes: tuple[str, str]) -> None:
        """Two notes that prove a fork, into `path.evidence`, one JSON object a line; up to a size."""
        file = self._path.with_name(self._path.name + ".evidence")
        line = json.dumps({"first": notes[0], "second": notes[1]}).encode() + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(file, flags, 0o600)
        try:
            if os.fstat(descriptor).st_size + len(line) <= EVIDENCE_MAX_BYTES:
                os.write(descriptor, line)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._lock)


def create_state(path: Path) -> None:
    """Make the file of a witness that has seen nothing yet. Raises Unavailable when it exists."""
    try:
        with new_file(path) as file:
            file.write(_render({}))
        sync_directory(path.parent)
    except OSError as error:
        raise _no_state(f"cannot be made: {error.strerror}") from error


def read_state(path: Path) -> dict[str, Remembered]:
    """What a file remembers, by origin; reads only. Raises Unavailable for anything but such a file."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
        members: object = json.loads(content)
    except OSError as error:
        raise _no_state(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise _no_state("is not JSON") from None
    match members:
        case {"v": 1, "logs": dict(logs)}:
            read = cast("dict[object, object]", logs)
            return {str(origin): _remembered(str(origin), each) for origin, each in read.items()}
        case _:
            raise _no_state("is none, or of another version")


def _remembered(origin: str, unverified: object) -> Remembered:
    match unverified:
        case {"at": int(at), "note": str(note)}:
            try:
                checkpoint = parse_checkpoint(note.partition("\n\n")[0] + "\n")
            except Problem:
                raise _no_state(f"has no checkpoint of {origin}") from None
            if checkpoint.origin == origin:
                return Remembered(checkpoint=checkpoint, at=at, note=note)
        case _:
            pass
    raise _no_state(f"has no checkpoint of {origin}")


def _render(logs: Mapping[str, Remembered]) -> bytes:
    members = {origin: {"at": each.at, "note": each.note} for origin, each in logs.items()}
    return json.dumps({"v": _V, "logs": members}, indent=1, ensure_ascii=False).encode() + b"\n"


def _held(path: Path) -> int:
    try:
        return hold(path.with_name(path.name + ".lock"))
    except BlockingIOError:
        raise _no_state("is another process's: a witness that runs") from None
    except OSError as error:
        raise _no_state(f"cannot be locked: {error.strerror}") from error


def _no_state(what: str) -> Unavailable:
    return Unavailable(
        "unavailable",
        f"the witness's state file {what}",
        rule="the witness's state",
        who_can_change_it="the witness's operator",
    )
