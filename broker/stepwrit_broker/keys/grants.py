"""Signs grants to other trust domains' brokers, with a key set of its own."""

from __future__ import annotations

from stepwrit.wire_chain import TYP_ID_JAG
from stepwrit_broker.keys.keyring import Keys


class OwnGrants:
    """The signer of `typ oauth-id-jag+jwt`. `kid` begins with `gr-`."""

    def __init__(self, ring: Keys) -> None:
        self._ring = ring

    def sign(self, plan: str, now: float) -> str:
        """A compact JWS over the stored plan, byte for byte."""
        return self._ring.signing_key(now).sign_text(TYP_ID_JAG, plan)
