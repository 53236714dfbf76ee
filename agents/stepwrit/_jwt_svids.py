"""JWT-SVIDs of our own: asked for at each use, and the last one held against an agent that is away."""

from __future__ import annotations

import threading
from typing import Final

from stepwrit._supervise import Clock
from stepwrit._workload_api import WatchEnded, fetch_jwt_svid
from stepwrit.errors import IdentityUnavailable
from stepwrit.jwtsvid import JwtSvidRefused, split

_SPARE_S: Final = 5.0  # what has less left than this may end on its way
_AUDIENCES_MAX: Final = 64


class HeldJwtSvids:
    """One per audience and SPIFFE ID, from the Workload API at `socket`. clock: seconds since the epoch."""

    def __init__(self, socket: str, clock: Clock) -> None:
        self._socket, self._clock = socket, clock
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], str] = {}

    def get(self, audience: str, spiffe_id: str, timeout: float) -> str:
        """A fresh one; the held one only where the agent cannot be reached. Raises IdentityUnavailable."""
        key = audience, spiffe_id
        try:
            token = fetch_jwt_svid(self._socket, audience, spiffe_id=spiffe_id, timeout=timeout)
        except IdentityUnavailable as failed:
            if isinstance(failed.__cause__, WatchEnded) and failed.__cause__.kind == "lost":
                held = self._usable(key)
                if held is not None:
                    return held
            self._forget(key)
            raise
        self._hold(key, token)
        return token

    def _usable(self, key: tuple[str, str]) -> str | None:
        with self._lock:
            token = self._held.get(key)
        return token if token and _expiry(token) - self._clock() > _SPARE_S else None

    def _hold(self, key: tuple[str, str], token: str) -> None:
        with self._lock:
            if len(self._held) >= _AUDIENCES_MAX and key not in self._held:
                self._held.pop(next(iter(self._held)))
            self._held[key] = token

    def _forget(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._held.pop(key, None)


def _expiry(token: str) -> float:
    """Its end by its own word, seconds since the epoch; 0 if it says none. Nobody trusts it by this."""
    try:
        exp = split(token).claims.get("exp")
    except JwtSvidRefused:
        return 0.0
    return float(exp) if isinstance(exp, (int, float)) else 0.0
