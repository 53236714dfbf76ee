"""Real SPIRE processes for tests and demos: server, agent, OIDC discovery provider, each on its own sockets.

    async with SpireDomain("a.test") as domain:
        await domain.enrol("agent/chat")              # this process, chosen by hint
        Broker.from_env(domain.environment("agent/chat") | {"STEPWRIT_BROKER": url})

`make tools` builds the programs.
"""

from stepwrit_broker.dev.spire.agent import AgentOptions, SpireAgent
from stepwrit_broker.dev.spire.domain import SpireDomain, own_executable
from stepwrit_broker.dev.spire.interpreter import copy_python
from stepwrit_broker.dev.spire.oidc import OidcDiscoveryProvider
from stepwrit_broker.dev.spire.process import Process, ProcessFailed
from stepwrit_broker.dev.spire.registration import Entry, Federation, Refused, ServerApi
from stepwrit_broker.dev.spire.server import BundleEndpoint, ServerOptions, SpireServer

__all__ = [
    "AgentOptions",
    "BundleEndpoint",
    "Entry",
    "Federation",
    "OidcDiscoveryProvider",
    "Process",
    "ProcessFailed",
    "Refused",
    "ServerApi",
    "ServerOptions",
    "SpireAgent",
    "SpireDomain",
    "SpireServer",
    "copy_python",
    "own_executable",
]
