"""Who of the attested is let in: the registry names every workload, every foreign trust domain, every
manner.
"""

from __future__ import annotations

from typing import Final

from stepwrit_broker.core.errors import Unproven
from stepwrit_broker.core.registry import Entry, Registry
from stepwrit_broker.core.workload import TrustDomain, Workload

DIRECT: Final = frozenset({"operator", "auditor"})
"""Roles for whom no proxy's word is taken."""

_OPERATOR: Final = "the operator (registry.yaml)"


def admit(registry: Registry, home: TrustDomain, workload: Workload) -> Entry:
    """The entry of an attested workload.

    home: the broker's own trust domain; any other must stand in the registry's `trust_domains`.

    Raises:
        Unproven: `unattested`: not registered, of a foreign domain that is not named, or proved in a way that
            its entry does not admit (a JWT-SVID is a bearer: only where the entry says `attest: [jwt]`; an
            operator or auditor comes on a connection of its own, never by way of a proxy).
    """
    domain = workload.trust_domain
    if domain != home and domain not in registry.trust_domains:
        raise _no(f"workloads of trust domain {domain} are not accepted here", "registry trust_domains")
    entry = registry.entry_for(workload.id)
    if entry is None:
        raise _no("this SPIFFE ID is not registered", "registry")
    if workload.attested_by not in entry.attest:
        manner = {"x509": "an X.509-SVID", "jwt": "a JWT-SVID"}[workload.attested_by]
        raise _no(f"the registry does not let this workload prove who it is by {manner}", "registry attest")
    if workload.via is not None and entry.role in DIRECT:
        raise _no(f"a workload of role {entry.role} connects to the broker itself, not to the proxy", "proxy")
    return entry


def _no(reason: str, rule: str) -> Unproven:
    return Unproven("unattested", reason, rule=rule, who_can_change_it=_OPERATOR)
