"""The operator's files: applied as versions at start and whenever they change."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Final

import structlog

from stepwrit_broker.core.errors import Conflict, Problem
from stepwrit_broker.core.versions import StoredVersion, VersionKind
from stepwrit_broker.flows.revoke import Operator
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.observe import Metrics
from stepwrit_broker.wiring.documents import document_text
from stepwrit_broker.wiring.settings import BrokerSettings

_log = structlog.get_logger("stepwrit.broker")
FILE_OPERATOR: Final = Operator(name="file")
TRIES: Final = 5
KINDS: Final[tuple[VersionKind, ...]] = ("registry", "limits", "policy")
_Stamp = tuple[tuple[str, int, int], ...]


class OperatorFiles:
    """Registry, limits and policy as files; where the settings name none, what the store has stays."""

    def __init__(self, settings: BrokerSettings, live: Live, metrics: Metrics) -> None:
        self._settings, self._live, self._metrics = settings, live, metrics
        self._stamps: dict[VersionKind, _Stamp] = {}

    async def apply_all(self) -> None:
        """Each of them, once."""
        for kind in KINDS:
            await self.apply(kind)

    async def watch(self) -> None:
        """What others put in force, then each file that changed since the last look."""
        await self._live.load()
        for kind in KINDS:
            if self._changed(kind):
                await self.apply(kind)

    async def apply(self, kind: VersionKind) -> None:
        """Apply a file if it changed. A bad one leaves what is in force, and says so."""
        path = self._path(kind)
        if path is None:
            return
        try:
            stored = await self._applied(kind, path)
        except (Problem, OSError, UnicodeDecodeError) as bad:
            _log.error("file refused; what was in force stays", kind=kind, path=str(path), why=str(bad))
            self._metrics.file_refused(kind)
            return
        self._metrics.file_good(kind)
        if stored is not None:
            _log.info("applied", kind=kind, version=stored.number, path=str(path))

    async def _applied(self, kind: VersionKind, path: Path) -> StoredVersion | None:
        """Again where another broker was first: it may have applied the very same file."""
        for _ in range(TRIES - 1):
            try:
                return await self._once(kind, path)
            except Conflict as other:
                if other.code != "stale_version":
                    raise
            await self._live.load()
        return await self._once(kind, path)

    def _once(self, kind: VersionKind, path: Path) -> Awaitable[StoredVersion | None]:
        return self._live.apply(
            kind,
            document_text(kind, path),
            source=str(path.resolve()),
            by=FILE_OPERATOR,
            reason="the file changed",
        )

    def _path(self, kind: VersionKind) -> Path | None:
        path: Path | None = getattr(self._settings, kind)
        return path

    def _changed(self, kind: VersionKind) -> bool:
        """By size and time of the file, or of any file in the folder."""
        path = self._path(kind)
        if path is None:
            return False
        stamp, before = _stamp(path), self._stamps.get(kind)
        self._stamps[kind] = stamp
        return stamp != before


def _stamp(path: Path) -> _Stamp:
    files = sorted(path.glob("*")) if path.is_dir() else [path]
    return tuple((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files if each.exists())
