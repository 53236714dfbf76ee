"""One foreign trust domain whose bundle is fetched from an endpoint, as the operator named it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from stepwrit.spiffe_bundle import SpiffeBundle
from stepwrit.spiffe_id import trust_domain_of
from stepwrit_broker.core.federation import Revision

MAX_AGE_S: Final = 21_600.0
Profile = Literal["https_web", "https_spiffe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """url, profile and trust_domain are configured together and never derived from each other (section 7.2).

    endpoint_id: who serves the endpoint, for `https_spiffe`. bootstrap: its first bundle, a file. ca_file:
    PEM, for `https_web` with a private CA. max_age_s: seconds for which a bundle counts after the endpoint
    last confirmed it.
    """

    trust_domain: str
    url: str
    profile: Profile
    endpoint_id: str | None = None
    bootstrap: Path | None = None
    ca_file: Path | None = None
    max_age_s: float = MAX_AGE_S

    @property
    def serves_itself(self) -> bool:
        """Whether the endpoint is a workload of the very domain whose bundle it serves."""
        return self.endpoint_id is not None and trust_domain_of(self.endpoint_id) == self.trust_domain


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A bundle that was accepted, and when its endpoint last gave it (seconds since the epoch)."""

    bundle: SpiffeBundle
    revision: Revision
    confirmed_at: float


class BundleNotTaken(Exception):  # noqa: N818  reads as a verdict
    """The endpoint gave nothing, or nothing to be believed. `reason`: one word; `detail`: for the log."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Final = reason
        self.detail: Final = detail
