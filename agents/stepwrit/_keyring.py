"""The broker's keys as last seen, and when to look again."""

from __future__ import annotations

from collections import deque
from typing import Final

from stepwrit._reply import local
from stepwrit._verbs import Published
from stepwrit.errors import UnavailableError
from stepwrit.jws import UnknownKey
from stepwrit.tokens import StepToken
from stepwrit.verify import verify_step_token
from stepwrit.wire import LEEWAY_S

MAX_AGE_S: Final = 300.0
BURST: Final = 4
WINDOW_S: Final = 20.0


class Keyring:
    """Decides when to fetch: at first, when stale, and for an unknown key, but then not without bound.

    Anybody can send a token with a made-up `kid`, so at most BURST fetches are for unknown keys per WINDOW_S.
    """

    def __init__(self) -> None:
        self.published: Published | None = None
        self._asked: Final[deque[float]] = deque(maxlen=BURST)

    def stale(self, now: float) -> bool:
        """Whether to fetch before using what there is."""
        return self.published is None or not 0 <= now - self.published.at < MAX_AGE_S

    def may_look_again(self, now: float) -> bool:
        """Whether an unknown key may cause a fetch now; a yes is counted."""
        if len(self._asked) == BURST and 0 <= now - self._asked[0] < WINDOW_S:
            return False
        self._asked.append(now)
        return True

    def issuer(self) -> str:
        """The `iss` of the broker's tokens. Raises UnavailableError until it was asked once."""
        return self._said().metadata.issuer

    def trust_domain(self) -> str:
        """The broker's own trust domain. Raises UnavailableError until it was asked once."""
        return self._said().metadata.stepwrit_trust_domain

    def _said(self) -> Published:
        if self.published is None:
            raise UnavailableError(local("unavailable", "the broker has not been reached yet"))
        return self.published

    def verified(self, token: str, now: float) -> StepToken:
        """The claims of a step token, by the keys there are.

        Raises:
            TokenRefused: see `stepwrit.verify.verify_step_token`; UnknownKey when a fetch may help.
        """
        if self.published is None:
            raise UnknownKey
        said, keys = self.published.metadata, self.published.keys.step
        return verify_step_token(
            token,
            keys,
            issuer=said.issuer,
            trust_domain=said.stepwrit_trust_domain,
            now=now,
            leeway=LEEWAY_S,
        )
