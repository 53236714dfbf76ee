"""A consistent copy of the store's file while it serves."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.store.schema import connect_reader


def copy_to(source: Path, target: Path) -> None:
    """One snapshot, 0600, whole and synced before it has its name. Blocking.

    The copy is taken in one step of its own read transaction: writers go on, and none of what they write is
    in it. Raises Conflict when the name is taken, Unavailable when the copy cannot be written.
    """
    draft = target.with_name(f".{target.name}.draft")
    if target.exists():
        raise Conflict("wrong_state", "there is a file of that name already", rule="backup")
    try:
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        said = f"{target}: {error.strerror}; the broker writes it, as uid {os.geteuid()}"
        raise Unavailable("unavailable", said, rule="backup") from error
    try:
        _copy(source, draft)
        _sync(draft)
        os.link(draft, target)  # unlike a rename, never replaces what came there meanwhile
        _sync(target.parent)
    except FileExistsError:
        raise Conflict("wrong_state", "there is a file of that name already", rule="backup") from None
    except (OSError, sqlite3.Error) as error:
        raise Unavailable("unavailable", f"the copy: {error}", rule="backup") from error
    finally:
        draft.unlink(missing_ok=True)


def _copy(source: Path, draft: Path) -> None:
    reader = connect_reader(source)
    try:
        copy = sqlite3.connect(draft, isolation_level=None)
        try:
            reader.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        finally:
            copy.close()
    finally:
        reader.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
