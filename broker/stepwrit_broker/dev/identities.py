"""Where development workloads get their SVIDs from: an own Workload API per identity, or real SPIRE."""

from __future__ import annotations

from typing import Protocol


class Identities(Protocol):
    """A trust domain that runs."""

    def environment(self, path: str) -> dict[str, str]:
        """What a process needs to be the workload with this ID path; ValueError for what is no path.

        SPIFFE_ENDPOINT_SOCKET, and STEPWRIT_SPIFFE_HINT where one socket serves several.
        """
        ...
