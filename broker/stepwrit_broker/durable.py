"""Files that are there, whole, after a crash."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def new_file(path: Path) -> Generator[BinaryIO, None, None]:
    """A new file, 0600, to write to; synced at the end. Raises FileExistsError, or another OSError."""
    with _synced(path, os.O_EXCL) as file:
        yield file


def replace(path: Path, data: bytes) -> None:
    """Put a file in place of an older one: after a crash it is the old or the new, whole. Raises OSError."""
    draft = path.with_name(f".{path.name}.new")
    with _synced(draft, os.O_TRUNC) as file:
        file.write(data)
    draft.rename(path)
    sync_directory(path.parent)


def hold(path: Path) -> int:
    """Take a lock file, so that one process at a time has what it stands for; `os.close` lets it go.

    Raises BlockingIOError when another process has it, or another OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _synced(path: Path, flags: int) -> Generator[BinaryIO, None, None]:
    flags |= os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
