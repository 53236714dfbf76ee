"""The issuer's published keys, and the proofs already seen: what the guard remembers between requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio

from stepwrit.errors import StepwritError
from stepwrit.jws import TokenRefused, VerifyKey, split

KID_CREDENTIAL: Final = "at-"
BURST: Final = 4
WINDOW_S: Final = 20.0
KEYS_MAX_AGE_S: Final = 300.0
PROOFS_MAX: Final = 100_000

KeySet = Mapping[str, VerifyKey]


class PublishedKeys:
    """The keys of `GET /oauth/jwks`, fetched when first needed.

    An unknown key id asks again, at once, since a broker that was restarted has new keys; BURST times in
    WINDOW_S, so that made-up ids cost nobody much. After KEYS_MAX_AGE_S they are asked for again, so that a
    key that was taken back stops to count.
    """

    def __init__(self, fetch: Callable[[], Awaitable[KeySet]], now: Callable[[], float]) -> None:
        self._fetch: Final = fetch
        self._now: Final = now
        self._lock: Final = anyio.Lock()
        self._keys: KeySet = {}
        self._at: float | None = None
        self._looks: Final[deque[float]] = deque(maxlen=BURST)

    async def all(self) -> KeySet:
        """Every published key by `kid`. Raises StepwritError when there are none of acceptable age."""
        async with self._lock:
            if not self._younger(KEYS_MAX_AGE_S):  # whoever waited for the lock finds it done
                await self._refresh()
        return self._keys

    async def holding(self, kid: str) -> KeySet:
        """The same, fetched once more when `kid` is not among them."""
        await self.all()
        if kid not in self._keys:
            async with self._lock:
                if kid not in self._keys and self._may_look():
                    await self._refresh()
        return self._keys

    def _may_look(self) -> bool:
        """Whether an unknown key id may cause a fetch now; a yes is counted."""
        now = self._now()
        if len(self._looks) == BURST and 0 <= now - self._looks[0] < WINDOW_S:
            return False
        self._looks.append(now)
        return True

    async def _refresh(self) -> None:
        keys = await self._fetch()
        self._keys, self._at = dict(keys), self._now()

    def _younger(self, limit: float) -> bool:
        return self._at is not None and 0 <= self._now() - self._at < limit


def credential_keys(keys: KeySet) -> KeySet:
    """Only those that sign credentials; a step token's key opens nothing here."""
    return {kid: key for kid, key in keys.items() if kid.startswith(KID_CREDENTIAL)}


def kid_of(token: str) -> str:
    """The key id that the token names, unverified; empty when it names none."""
    try:
        return split(token).header.kid or ""
    except TokenRefused:
        return ""


def signed_with(keys: KeySet, token: str) -> bool:
    """Whether any of our keys signed this, whatever it says: what is ours is reported, not only counted."""
    try:
        unverified = split(token)
        key = keys.get(unverified.header.kid or "")
        if key is None:
            return False
        key.check(unverified.signing_input, unverified.signature)
    except TokenRefused:
        return False
    return True


class ProofsFull(StepwritError):  # noqa: N818  reads as a state
    """The window of seen proofs is full: nothing more can be known to be new."""


class SeenProofs:
    """Proofs seen by this process, each until it is too old to be accepted anyway; bounded.

    It stops a replay early. What makes a use single is the broker's redeem.
    """

    def __init__(self, limit: int = PROOFS_MAX) -> None:
        self._until: Final[dict[tuple[str, str], float]] = {}
        self._limit: Final = limit

    def first(self, jkt: str, jti: str, until: float, now: float) -> bool:
        """Whether this proof is new; it is remembered. Raises ProofsFull, and then remembers nothing."""
        self._forget(now)
        if (jkt, jti) in self._until:
            return False
        if len(self._until) >= self._limit:
            raise ProofsFull("too many live proofs to tell a replay from a new one")
        self._until[jkt, jti] = until
        return True

    def _forget(self, now: float) -> None:
        """Drop the oldest while they are over; they came in nearly the order in which they end."""
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] >= now:
                return
            del self._until[oldest]
