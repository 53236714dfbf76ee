"""What was last accepted of each partner, kept over a restart: one file each, 0600, beside the store.

Without it a restart would take any older bundle for the first one, with a key that was withdrawn since.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Final, cast

from stepwrit.spiffe_bundle import BundleRefused, parse_bundle
from stepwrit_broker import durable
from stepwrit_broker.attest.federation.partner import BundleNotTaken, Held
from stepwrit_broker.attest.federation.reading import held_of

_V: Final = 1
_LONGEST_NAME: Final = 200


class Memory:
    """The file of one partner. Delete it to begin anew, after the partner began anew."""

    def __init__(self, folder: Path, trust_domain: str) -> None:
        self._domain = trust_domain
        short = len(trust_domain) <= _LONGEST_NAME
        name = trust_domain if short else hashlib.sha256(trust_domain.encode()).hexdigest()
        self.path: Final = folder / f"bundle-{name}.json"

    def load(self) -> Held | None:
        """What was accepted, None if nothing ever was. Raises BundleNotTaken(`unreadable`)."""
        try:
            read = json.loads(self.path.read_bytes())
            return self._held(cast("dict[str, Any]", read))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BundleRefused) as bad:
            raise BundleNotTaken("unreadable", f"{self.path}: {type(bad).__name__}") from bad

    def _held(self, read: dict[str, Any]) -> Held:
        if (read["v"], read["trust_domain"]) != (_V, self._domain):
            raise ValueError("of another version or trust domain")
        bundle = parse_bundle(base64.b64decode(read["bundle"], validate=True), self._domain)
        return held_of(bundle, confirmed_at=float(read["confirmed_at"]))

    def save(self, raw: bytes, confirmed_at: float) -> None:
        """Durable, whole: after a crash it is the old or the new. Raises OSError."""
        written = {
            "v": _V,
            "trust_domain": self._domain,
            "confirmed_at": confirmed_at,
            "bundle": base64.b64encode(raw).decode(),
        }
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace(self.path, json.dumps(written).encode())
