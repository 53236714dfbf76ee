"""What both clients are made of, apart from waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stepwrit import telemetry
from stepwrit._approving import Pending
from stepwrit._keyring import Keyring
from stepwrit._transport import READY_AGAIN_S, READY_S, Named, Who
from stepwrit.clock import Clock, Entropy, SystemClock, SystemEntropy, random_id
from stepwrit.digest import DigestError, parse_json
from stepwrit.flow import Retry, Sender
from stepwrit.jws import SigningKey, TokenRefused, split

IN_PROCESS_URL: Final = "https://broker.stepwrit.invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a client may be given instead of the usual. key: the DPoP key, one per client, never stored."""

    base_url: str = IN_PROCESS_URL
    key: SigningKey | None = None
    clock: Clock | None = None
    entropy: Entropy | None = None
    retry: Retry | None = None

    def sender(self) -> Sender:
        """With the usual for what is not given."""
        return Sender(
            base_url=self.base_url.rstrip("/"),
            key=self.key or SigningKey.generate(),
            clock=self.clock or SystemClock(),
            entropy=self.entropy or SystemEntropy(),
            retry=self.retry or Retry(),
        )


class Client:
    """The parts, and what is known without asking anybody."""

    def __init__(self, who: Who | str, parts: Parts) -> None:
        self._who: Final[Who] = Named(who) if isinstance(who, str) else who
        self._sender: Final = parts.sender()
        self._ring: Final = Keyring()
        self._patience = READY_S
        self.pending: Final = Pending()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._sender.base_url!r})"

    @property
    def key(self) -> SigningKey:
        """The key that proofs are made with; its thumbprint is what our step tokens are bound to."""
        return self._sender.key

    @property
    def spiffe_id(self) -> str:
        """Our SPIFFE ID. Raises IdentityUnavailable."""
        return self._who.spiffe_id

    @property
    def issuer(self) -> str:
        """The `iss` of the broker's tokens. Raises UnavailableError until the broker was asked once."""
        return self._ring.issuer()

    @property
    def trust_domain(self) -> str:
        """The broker's own trust domain. Raises UnavailableError until the broker was asked once."""
        return self._ring.trust_domain()

    def now(self) -> float:
        """Seconds since the epoch, by the client's clock."""
        return self._sender.clock.now()

    def random_id(self) -> str:
        """128 fresh random bits, as text."""
        return random_id(self._sender.entropy)

    def _parts(self, base_url: str) -> Parts:
        """The same parts for another broker."""
        own = self._sender
        return Parts(base_url=base_url, key=own.key, clock=own.clock, entropy=own.entropy, retry=own.retry)

    def _met(self) -> str:
        """Our SPIFFE ID, which from now on is not waited for as long as the first time."""
        self._patience = READY_AGAIN_S
        return self._who.spiffe_id

    def _observe(self) -> None:
        end = self._who.expires_at
        if end is not None:
            telemetry.svid_seconds_left(end - self.now())


def unverified_jti(token: str) -> str:
    """The grant that a credential names, believed only for naming it; empty if there is none."""
    try:
        claims = parse_json(split(token).claims_bytes)
    except (TokenRefused, DigestError):
        return ""
    jti = claims.get("jti") if isinstance(claims, dict) else None
    return jti if isinstance(jti, str) else ""
