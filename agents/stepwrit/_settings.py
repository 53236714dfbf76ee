"""What a client is told by its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from stepwrit.clock import environment
from stepwrit.errors import ConfigurationError
from stepwrit.spiffe_id import check_workload_id

SOCKET: Final = "SPIFFE_ENDPOINT_SOCKET"
BROKER: Final = "STEPWRIT_BROKER"
BROKER_ID: Final = "STEPWRIT_BROKER_ID"
HINT: Final = "STEPWRIT_SPIFFE_HINT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """socket: of the Workload API. broker: base URL. broker_id: its SPIFFE ID, None for the usual one.

    hint: which of our SVIDs, None for the first.
    """

    socket: str
    broker: str
    broker_id: str | None
    hint: str | None = None

    @staticmethod
    def read(environ: Mapping[str, str] | None = None) -> Settings:
        """From the environment. Raises ConfigurationError, which names the variable."""
        environ = environment() if environ is None else environ
        return Settings(
            socket=_needed(environ, SOCKET, "the Workload API's socket, unix:///path"),
            broker=_base_url(_needed(environ, BROKER, "the broker's base URL, https://host:8443")),
            broker_id=_checked_id(environ.get(BROKER_ID) or None),
            hint=environ.get(HINT) or None,
        )


def _needed(environ: Mapping[str, str], name: str, what: str) -> str:
    value = environ.get(name)
    if not value:
        raise ConfigurationError(f"{name} is not set; it is {what}")
    return value


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or "@" in parts.netloc:
        raise ConfigurationError(f"{BROKER} is not https://host[:port]")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"{BROKER} has a query or fragment")
    return url.rstrip("/")


def _checked_id(spiffe_id: str | None) -> str | None:
    try:
        return None if spiffe_id is None else check_workload_id(spiffe_id)
    except ValueError as bad:
        raise ConfigurationError(f"{BROKER_ID}: {bad}") from None
