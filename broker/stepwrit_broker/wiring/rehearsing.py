"""Rehearsal in the broker: candidates in processes of their own, and what is kept beside the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import structlog

from stepwrit_broker import durable
from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.flows.candidates import Desk
from stepwrit_broker.flows.impact import Impact
from stepwrit_broker.flows.settings import Live
from stepwrit_broker.flows.shadowing import Shadowing
from stepwrit_broker.observe import Metrics
from stepwrit_broker.ports import Clock, Entropy, Store
from stepwrit_broker.wiring.candidates import Candidates
from stepwrit_broker.wiring.settings import BrokerSettings

FOLDER: Final = "rehearsal"
_log = structlog.get_logger("stepwrit.broker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The shadow, and the impact reports."""

    shadow: Shadowing
    impact: Impact


class FileKeeper:
    """One JSON object in one file, 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Mapping[str, Any]:
        """Empty when there is none. What cannot be read is said in the log and is none."""
        try:
            read: object = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as bad:
            _log.error("rehearsal file cannot be read", path=str(self._path), why=type(bad).__name__)
            return {}
        return cast("dict[str, Any]", read) if isinstance(read, dict) else {}

    async def save(self, kept: Mapping[str, Any]) -> None:
        """Durable when it returns. Raises Unavailable."""
        await asyncio.to_thread(self._save, json.dumps(kept).encode())

    def _save(self, data: bytes) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            durable.replace(self._path, data)
        except OSError as bad:
            reason = f"{self._path.name} cannot be written ({type(bad).__name__})"
            raise Unavailable("unavailable", reason, rule="rehearsal") from bad


def rehearsal_of(
    settings: BrokerSettings, store: Store, live: Live, clock: Clock, entropy: Entropy, metrics: Metrics
) -> Rehearsal:
    """From now on the gate of `live` is asked; nothing runs yet."""
    opa = settings.opa
    if opa is not None and settings.rehearsal_opa_url:
        opa = replace(opa, url=settings.rehearsal_opa_url)
    folder = settings.store_path.parent / FOLDER
    where = str(settings.store_path) if settings.fleet is None else settings.fleet.postgres
    desk = Desk(store=store, clock=clock, entropy=entropy, workshop=Candidates(where, opa))
    shadow = Shadowing(desk, live=live, keeper=FileKeeper(folder / "shadow.json"), heard=metrics)
    keeper = FileKeeper(folder / "impact.json")
    impact = Impact(desk, keeper=keeper, shadow=shadow.found, activation=settings.activation)
    live.gate = impact.admitted
    return Rehearsal(shadow=shadow, impact=impact)
