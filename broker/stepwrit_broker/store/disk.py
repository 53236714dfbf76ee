"""Room on the disk: how much there is, what is kept back for every "no", and a ballast to throw off."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stepwrit_broker.core.errors import Unavailable

RESERVE_BYTES: Final = 64 * 1024 * 1024
BALLAST_BYTES: Final = 4 * 1024 * 1024
_LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """Bytes: what the store's files take, what is free on their disk, about what the entries take."""

    used: int
    free: int
    ledger: int
    entries: int


class Disk:
    """The disk under the store. `free`: where the number comes from, for a disk with a quota."""

    def __init__(
        self,
        path: Path,
        *,
        reserve: int = RESERVE_BYTES,
        ballast: int = BALLAST_BYTES,
        free: Callable[[], int] | None = None,
    ) -> None:
        self._path = path
        self._reserve = reserve
        self._ballast_bytes = ballast
        self._ballast = path.with_name(path.name + ".ballast")
        self._ask = free or self._statvfs
        self._looked = float("-inf")
        self._short = False

    def check(self, now: float) -> None:
        """Raises Unavailable(rule="disk") when only the room for marks is left. Looks once a second."""
        if now - self._looked >= _LOOK_EVERY_S:
            self._short, self._looked = self.free() < self._reserve, now
        if self._short:
            raise Unavailable(
                "unavailable",
                "the broker's disk is nearly full; only revoke and freeze are taken",
                rule="disk",
                retry_after=30.0,
                who_can_change_it="the operator",
            )

    def free(self) -> int:
        """Bytes free for this process; 0 when nobody can tell."""
        try:
            return self._ask()
        except OSError:
            return 0

    def used(self) -> int:
        """Bytes of the database and its write-ahead log."""
        beside = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(path.stat().st_size for path in beside if path.exists())

    def take_ballast(self) -> None:
        """Fill the ballast when there is room beyond the reserve; without room the store goes without."""
        if (
            self._ballast_bytes == 0
            or self.has_ballast()
            or self.free() < self._reserve + self._ballast_bytes
        ):
            return
        try:
            descriptor = os.open(self._ballast, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._ballast_bytes)
            finally:
                os.close(descriptor)
        except OSError:
            self.drop_ballast()

    def has_ballast(self) -> bool:
        """Whether there is something to throw off."""
        try:
            return self._ballast.stat().st_size >= self._ballast_bytes > 0
        except OSError:
            return False

    def drop_ballast(self) -> bool:
        """Make room for a "no"; True when there was something to throw off."""
        had = self.has_ballast()
        self._ballast.unlink(missing_ok=True)
        self._looked = float("-inf")
        return had

    def _statvfs(self) -> int:
        room = os.statvfs(self._path.parent)
        return room.f_bavail * room.f_frsize
