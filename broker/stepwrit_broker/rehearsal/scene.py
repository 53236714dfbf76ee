"""A scenario's circumstances: who there is, at what time. What cannot be is Wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn

from stepwrit_broker.core.registry import Entry, Registry
from stepwrit_broker.core.workload import SpiffeId, trust_domain_of
from stepwrit_broker.registry.marked import Path

Given = Mapping[str, Any]
TIME: Final = "2027-01-15T08:00:00Z"


class Wrong(Exception):  # noqa: N818  it is a problem of the file, found far from its reader
    """A scenario that cannot be; `path` within the scenario, `what` in the author's words."""

    def __init__(self, what: str, *path: str | int) -> None:
        super().__init__(what)
        self.what = what
        self.path: Path = ("given", *path)


@dataclass(frozen=True, slots=True)
class Scene:
    """The circumstances, and the registry they speak of."""

    given: Given
    registry: Registry

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        text = str(self.given.get("time", TIME))
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            raise Wrong("there is no such time", "time") from None

    @property
    def starter(self) -> Entry:
        """Who began the transaction."""
        name = self.given.get("starter")
        found = next((each for each in self.registry.entries if each.name == name), None)
        return found or wrong("must name who started it: an entry of the registry", "starter")

    @property
    def home(self) -> str:
        """The broker's own trust domain."""
        return str(self.given.get("home") or trust_domain_of(exact(self.starter.id)))


def exact(pattern: str) -> SpiffeId:
    """An ID that the entry covers."""
    return SpiffeId(f"{pattern[:-1]}scenario" if pattern.endswith("/*") else pattern)


def wrong(what: str, *path: str | int) -> NoReturn:
    """For the end of an `or`."""
    raise Wrong(what, *path)
