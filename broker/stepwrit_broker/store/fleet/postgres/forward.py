"""A database that knows less than it told us was put back from a copy, or lost commits in a fail-over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.postgres.schema import in_doubt


@dataclass(frozen=True, slots=True)
class Seen:
    """What the database had when this was taken; whoever asks it afterwards must find as much."""

    order: int = 0
    rules: int = 0
    epoch: str = ""
    reached: Mapping[int, int] = field(default_factory=dict)

    def check_standing(self, order: int, rules: int) -> None:
        """Raises Unavailable."""
        if order < self.order or rules < self.rules:
            raise _older()

    def check_positions(self, epoch: str, found: Mapping[int, int]) -> None:
        """Raises Unavailable."""
        if epoch == self.epoch and any(seq < self.reached.get(shard, 0) for shard, seq in found.items()):
            raise _older()


class Forward:
    """How far this process saw the database. Take `seen` before asking: calls that overlap say less later."""

    def __init__(self) -> None:
        self.seen = Seen()

    def standing(self, order: int, rules: int) -> None:
        """It is there."""
        old = self.seen
        self.seen = Seen(max(order, old.order), max(rules, old.rules), old.epoch, old.reached)

    def positions(self, epoch: str, found: Mapping[int, int]) -> None:
        """Its shards are there."""
        old = self.seen
        known = dict(old.reached) if epoch == old.epoch else {}
        known.update({shard: max(seq, known.get(shard, 0)) for shard, seq in found.items()})
        self.seen = Seen(old.order, old.rules, epoch, known)


def _older() -> Unavailable:
    return in_doubt(
        "the fleet's database is older than it was: a backup was restored, or a standby without all commits"
        " took over"
    )
