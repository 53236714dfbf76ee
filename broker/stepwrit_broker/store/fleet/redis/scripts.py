"""The scripts that Redis runs, by name and SHA-1 (docs/reference/fleet-redis.md says what may change)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

LAYOUT: Final = "1"
"""Of the keys and their values. Scripts of two brokers may differ; the layout of one epoch may not."""

_FOLDER: Final = files("stepwrit_broker.store.fleet.redis") / "scripts"
_COMMON: Final = (_FOLDER / "_stands.lua").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Script:
    """One script. sha: what EVALSHA calls it by."""

    name: str
    source: bytes = field(repr=False)
    sha: str


def digest(source: bytes) -> str:
    """The SHA-1 by which Redis knows a script: a name, no proof of anything."""
    return hashlib.sha1(source, usedforsecurity=False).hexdigest()


def _load(name: str) -> Script:
    first, _, rest = (_FOLDER / f"{name}.lua").read_text(encoding="utf-8").partition("\n")
    source = "\n".join((first, f"-- stepwrit {name}, layout {LAYOUT}", _COMMON, rest)).encode()
    return Script(name, source, digest(source))


BEGIN: Final = _load("begin")
STANDING: Final = _load("standing")
FETCH: Final = _load("fetch")
HOLD: Final = _load("hold")
COMMIT: Final = _load("commit")
EVICT: Final = _load("evict")
ONCE: Final = _load("once")
PLACE: Final = _load("place")
RELEASE: Final = _load("release")
LEASE: Final = _load("lease")
GIVE_BACK: Final = _load("give_back")
RULE: Final = _load("rule")
TRIM: Final = _load("trim")
BACKLOG: Final = _load("backlog")
SWEEP: Final = _load("sweep")
ALL: Final = (
    BEGIN, STANDING, FETCH, HOLD, COMMIT, EVICT, ONCE, PLACE, RELEASE, LEASE, GIVE_BACK,
    RULE, TRIM, BACKLOG, SWEEP,
)  # fmt: skip
