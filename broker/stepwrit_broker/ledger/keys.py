"""Long-lived keys, each in a file only its owner can read: the log's checkpoint key, a witness's key.

One line in the `PRIVATE+KEY+name+id+seed` form of signed-note tools; the name is the log's origin, or the
witness's name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from stepwrit_broker.core.errors import Conflict, Unavailable
from stepwrit_broker.durable import new_file, sync_directory
from stepwrit_broker.ledger.cosignature import CosignatureSigner, parse_witness_secret, witness_secret
from stepwrit_broker.ledger.notes import NoteRefused, NoteSigner, parse_secret, secret_line

_MAX_BYTES: Final = 4096
_RULE: Final = "a long-lived key"
T = TypeVar("T")


def create(path: Path, *, origin: str, seed: bytes) -> NoteSigner:
    """Make the key file, whole and 0600 or not at all, durable on return.

    seed: 32 bytes of randomness. Raises: Conflict when the file exists (a log never gets a second key this
    way), NoteRefused for an origin that cannot name a key, Unavailable when it cannot be written.
    """
    _write_new(path, secret_line(origin, seed))
    return NoteSigner.from_seed(origin, seed)


def create_witness(path: Path, *, name: str, seed: bytes) -> CosignatureSigner:
    """As `create`, for the key of a witness of that name."""
    _write_new(path, witness_secret(name, seed))
    return CosignatureSigner.from_seed(name, seed)


def _write_new(path: Path, line: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    try:
        with new_file(draft) as file:
            file.write(f"{line}\n".encode())
        try:
            os.link(draft, path)  # unlike a rename, never replaces a key
        finally:
            draft.unlink()
        sync_directory(path.parent)
    except FileExistsError:
        raise Conflict("wrong_state", "the key file or its draft exists already", rule=_RULE) from None
    except OSError as error:
        raise Unavailable("unavailable", f"the key file: {error.strerror}", rule=_RULE) from error


def load(path: Path) -> NoteSigner:
    """The key in the file; Unavailable unless it is a whole, regular file of ours that only we can read."""
    return _load(path, parse_secret)


def load_witness(path: Path) -> CosignatureSigner:
    """As `load`, the key of a witness."""
    return _load(path, parse_witness_secret)


def _load(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return _parse(_read_private(path), parse)
    except OSError as error:
        raise Unavailable("unavailable", f"the key file: {error.strerror}", rule=_RULE) from error


def _read_private(path: Path) -> bytes:
    # the checks are on what was opened, not on a name that may since mean another file
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_private(os.fstat(descriptor))
        return os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)


def _check_private(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Unavailable("unavailable", "the key file is not a regular file", rule=_RULE)
    if status.st_uid != os.geteuid():
        said = (
            f"the key file belongs to uid {status.st_uid}: run this as that user, not as uid {os.geteuid()}"
        )
        raise Unavailable("unavailable", said, rule=_RULE)
    if status.st_mode & 0o077:
        raise Unavailable("unavailable", "the key file is open to others; make it 0600", rule=_RULE)


def _parse(content: bytes, parse: Callable[[str], T]) -> T:
    try:
        return parse(content.decode().removesuffix("\n"))
    except (NoteRefused, UnicodeError):
        # neither the cause nor the content: either could show the secret
        raise Unavailable("unavailable", "the key file does not hold a key", rule=_RULE) from None
