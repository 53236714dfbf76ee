"""The seams between the brokers of a fleet: whose keys are whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stepwrit_broker.core.workload import SpiffeId

KeyUse = Literal["st", "at", "gr"]
"""Step tokens, credentials, grants to other brokers: how the `kid` begins."""
STATEMENT_MAX: int = 16_384  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKey:
    """A key of ours. jwk: public members only. since: signs nothing before. until: the last token is dead."""

    use: KeyUse
    kid: str
    jwk: Mapping[str, str]
    since: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A broker's key, by its verified statement. until: of the key, and of the SVID that signed for it."""

    broker: SpiffeId
    use: KeyUse
    kid: str
    jwk: Mapping[str, str]
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A statement, as it was posted: believed only when judged. id: of the statement. until: its end."""

    id: str
    text: str = field(repr=False)
    until: float


class KeyBoard(Protocol):
    """Where brokers post statements of their keys. Whoever can write to it can add noise, never a key."""

    async def post(self, posted: Posted, now: float) -> None:
        """Durable when it returns. MUST be idempotent, and MUST NOT replace another statement of this id.

        MUST forget what has ended by `now`. Raises Malformed beyond STATEMENT_MAX, Unavailable(rule="store")
        when it cannot be told.
        """
        ...

    async def posted(self, now: float) -> Sequence[Posted]:
        """What has not ended. Raises Unavailable(rule="store")."""
        ...


class KeyStatements(Protocol):
    """Makes and judges statements."""

    def state(self, key: OwnKey, now: float) -> Posted:
        """Signed by the key of our X.509-SVID. Raises Unavailable without one."""
        ...

    def judge(self, posted: Posted, now: float) -> Stated:
        """Raises Unproven (rule: what is wrong) for a statement that does not hold now; Unavailable in
        doubt.
        """
        ...
