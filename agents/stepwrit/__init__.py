"""Stepwrit's SDK: steps, credentials, redeeming and refusals for MCP servers, agents and resources.

The names here are loaded when first used: whoever needs only `stepwrit.wire` loads no HTTP and no gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwrit.agent import Broker, Intent, bound_nonce
    from stepwrit.client import Parts, SyncBroker
    from stepwrit.errors import (
        ConfigurationError,
        IdentityUnavailable,
        OutcomeUnknownError,
        RefusedError,
        StepwritError,
        UnavailableError,
    )
    from stepwrit.lineage import Step, current_step
    from stepwrit.wire import Refusal

__all__ = [
    "Broker",
    "ConfigurationError",
    "IdentityUnavailable",
    "Intent",
    "OutcomeUnknownError",
    "Parts",
    "Refusal",
    "RefusedError",
    "Step",
    "StepwritError",
    "SyncBroker",
    "UnavailableError",
    "bound_nonce",
    "current_step",
]

_HOME = {
    "agent": ("Broker", "Intent", "bound_nonce"),
    "client": ("Parts", "SyncBroker"),
    "lineage": ("Step", "current_step"),
    "wire": ("Refusal",),
}
_WHERE = {name: home for home, names in _HOME.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'stepwrit' has no attribute {name!r}")
    return getattr(import_module(f"stepwrit.{_WHERE.get(name, 'errors')}"), name)
